// What gradio's markup lacks for those who listen to the page or work it by keys: names of groups, radio buttons that are
// one group each, and one place from which results and states are spoken.
"use strict";
window.mmerPage = (() => {
  // Of these blocks the text is spoken when it changes; of a result only its headline and the line beneath.
  const SPOKEN = [
    "status", "doing", "saved", "label-status", "label-told", "review-status", "review-doing", "review-decided",
    "result",
  ];
  const spoken = new Map(); // block -> what was last said of it
  let nextId = 0;

  const idOf = (element) => element.id || (element.id = `mm-name-${nextId++}`);

  // gradio gives each radio button a group of its own, anew with every choice, and then arrow keys lead nowhere.
  function groupRadio(radio) {
    const name = idOf(radio.closest("fieldset"));
    if (radio.name !== name) radio.name = name;
  }

  function nameGroups() {
    for (const group of document.querySelectorAll("fieldset:not([aria-labelledby])")) {
      const name = group.querySelector("[data-testid=block-info]");
      if (!name) continue;
      group.setAttribute("role", group.querySelector("input[type=radio]") ? "radiogroup" : "group");
      group.setAttribute("aria-labelledby", idOf(name));
      const info = group.querySelector(".info-text");
      if (info) group.setAttribute("aria-describedby", idOf(info));
    }
    document.querySelectorAll("fieldset input[type=radio]").forEach(groupRadio);
    for (const tabs of document.querySelectorAll("[role=tablist]:not([aria-label])"))
      tabs.setAttribute("aria-label", tabs.closest("[role=tabpanel]") ? "Kind of clip" : "Parts of the page");
    for (const drop of document.querySelectorAll("button.upload-container[aria-label]")) {
      const visible = drop.textContent.trim().replace(/\s+/g, " ");
      if (visible && drop.ariaLabel !== visible) drop.ariaLabel = visible;
    }
  }

  function textOf(block) {
    if (block.id === "result") {
      const headline = block.querySelector(".mm-emotion");
      return headline ? `${headline.textContent}. ${headline.nextElementSibling?.textContent ?? ""}` : "";
    }
    const copy = block.querySelector(".prose")?.cloneNode(true);
    copy?.querySelectorAll("[aria-hidden=true], [role=alert]").forEach((element) => element.remove());
    return copy?.textContent ?? "";
  }

  function say(words) {
    const live = document.getElementById("mm-page-live");
    if (live) live.textContent = words;
  }

  function speak() {
    for (const id of SPOKEN) {
      const block = document.getElementById(id);
      const text = block?.checkVisibility() ? textOf(block).trim().replace(/\s+/g, " ") : "";
      if (text && text !== spoken.get(id)) say(text);
      spoken.set(id, text);
    }
  }

  let due = false;
  new MutationObserver((changes) => {
    for (const { type, target } of changes)
      if (type === "attributes" && target.matches("fieldset input[type=radio]")) groupRadio(target);
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      nameGroups();
      speak();
    });
  }).observe(document.documentElement, {
    childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ["name"],
  });
  return { say };
})();
