// What gradio's markup lacks for those who listen to the page or work it by keys: names of groups, radio buttons that are
// one group each, one place from which results and states are spoken, and addresses that a reload leads back to.
"use strict";
// A text in the language of the page, its {fields} filled in; `mmerTexts` has those of these scripts, by language.
const mmerLanguage = Object.keys(mmerTexts) // as the server chose; gradio may have changed it
  .find((code) => navigator.language.toLowerCase().split("-")[0] === code) ?? "en";
document.documentElement.lang = mmerLanguage;
window.mmerText = (text, fields = {}) => {
  const found = mmerTexts[mmerLanguage]?.[text] ?? text;
  return found.replace(/\{(\w+)\}/g, (_, name) => fields[name]);
};
window.mmerPage = (() => {
  // Of these blocks the text is spoken when it changes; of a result only its headline and the line beneath.
  const SPOKEN = [
    "status", "files-status", "doing", "saved", "label-status", "label-told", "review-status", "review-doing",
    "review-decided", "receipt-told", "own-told", "project-told", "live-status", "result",
  ];
  const places = {}; // tab -> what is open in it: a project, an item
  let here = null; // the tab that is open
  let wanted = read(); // the tab that the address names, until it is open
  let tries = 0; // to open it: where it cannot be, the page goes on without
  const spoken = new Map(); // block -> what was last said of it
  let nextId = 0;

  const idOf = (element) => element.id || (element.id = `mm-name-${nextId++}`);

  // gradio gives each radio button a group of its own, anew with every choice, and then arrow keys lead nowhere.
  function groupRadio(radio) {
    const group = radio.closest("fieldset");
    const name = idOf(group);
    if (radio.name !== name) radio.name = name;
    if (group.getAttribute("role") !== "radiogroup") group.setAttribute("role", "radiogroup"); // it was empty when named
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
    // gradio's tooltip of a box is its value, which is English in every language.
    for (const box of document.querySelectorAll("fieldset label > input[title]")) {
      const shown = box.parentElement.textContent.trim();
      if (box.title !== shown) box.title = shown;
    }
    for (const tabs of document.querySelectorAll("[role=tablist]:not([aria-label])"))
      tabs.setAttribute("aria-label", tabs.closest("[role=tabpanel]") ? mmerText("Kind of clip") : mmerText("Parts of the page"));
    // gradio names its empty file fields, which are nothing that may have a name.
    for (const empty of document.querySelectorAll("div.empty[aria-label]:not([role])")) empty.setAttribute("role", "img");
    for (const drop of document.querySelectorAll("button.upload-container[aria-label]")) {
      const visible = drop.textContent.trim().replace(/\s+/g, " ");
      if (visible && drop.ariaLabel !== visible) drop.ariaLabel = visible;
    }
  }

  // Lists of plain text have an emotion's symbol before its word: it gets its colour, and is not read out.
  const LISTS = "#review-items label, #own-labels label, #label-given label, #review-emotion [role=option]";
  const NAMED = new RegExp(Object.values(mmerSigns).map((symbol) => `${symbol}(?= \\p{L})`).join("|"), "gu");
  function colourSymbols() {
    const found = Object.fromEntries(Object.entries(mmerSigns).map(([emotion, symbol]) => [symbol, { emotion, ranges: [] }]));
    for (const line of document.querySelectorAll(LISTS)) {
      const input = line.querySelector("input");
      if (input) input.ariaLabel = line.textContent.replace(NAMED, "").trim().replace(/\s+/g, " ");
      const texts = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
      while (texts.nextNode())
        for (const { 0: symbol, index } of texts.currentNode.data.matchAll(NAMED)) {
          const range = new Range();
          range.setStart(texts.currentNode, index);
          range.setEnd(texts.currentNode, index + symbol.length);
          found[symbol].ranges.push(range);
        }
    }
    if (!window.Highlight) return; // in an older browser symbols have the text's colour
    for (const { emotion, ranges } of Object.values(found)) CSS.highlights.set(`mm-${emotion}`, new Highlight(...ranges));
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

  // Where browsers keep nothing for a page in another page's frame, nothing is remembered.
  function storage() {
    try { return window.localStorage; } catch { return null; }
  }
  const keep = (what, value) => storage()?.setItem(`mmer-${what}`, value ?? "");
  const kept = (what) => storage()?.getItem(`mmer-${what}`) ?? "";

  const NAMES = ["annotator", "label-name", "review-name", "model-name"];
  // What somebody calls themselves in one tab, they need not type again in another.
  function fillName() {
    const name = kept("name");
    for (const id of name ? NAMES : []) {
      const field = document.querySelector(`#${id} :is(input, textarea)`);
      if (!field || field.value || field === document.activeElement) continue;
      field.value = name;
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }
  }

  // Why a recording is not shown, in words, and whether another link to it would help.
  async function whyNoMedia(link) {
    const { status } = await fetch(link, { method: "HEAD" }).catch(() => ({ status: 0 }));
    const words = {
      0: mmerText("The server cannot be reached."),
      403: mmerText("You may not see this recording any more; load the page again."),
      404: mmerText("The recording is not here any more: it was deleted meanwhile."),
      410: mmerText("The link to the recording is over; load the page again."),
    }[status];
    return { over: status === 410, words: words ?? mmerText("This recording cannot be played.") };
  }

  // The address: #tab/project/item. A reload, a bookmark and the browser's Back lead to it.
  function read() {
    let parts = [];
    try { parts = location.hash.slice(1).split("/").map(decodeURIComponent); } catch { /* not written by this page */ }
    const [tab, ...rest] = parts;
    if (tab) places[tab] = rest;
    return tab || null;
  }
  const where = (tab) => places[tab] ?? [];
  function address(tab, ...parts) {
    places[tab] = parts.filter((part) => part != null && part !== "").map(String);
    if (here === tab) write("replaceState");
  }
  function write(how) {
    const hash = `#${[here, ...where(here)].map(encodeURIComponent).join("/")}`;
    if (location.hash !== hash) history[how](null, "", hash);
  }
  function tabs() {
    const list = [...document.querySelectorAll("[role=tablist]")].find((one) => !one.closest("[role=tabpanel]"));
    return [...(list?.querySelectorAll("[role=tab]") ?? [])];
  }
  const nameOf = (tab) => /^tab-(.*)-button$/.exec(tab.id)?.[1] ?? "";
  function followTabs() {
    const all = tabs();
    const open = all.find((tab) => tab.ariaSelected === "true");
    if (!open) return;
    const asked = wanted && all.find((tab) => nameOf(tab) === wanted);
    if (wanted && !asked && performance.now() < 10000) return; // a tab that only some see comes a moment later
    if (asked && asked !== open && tries++ < 5) { asked.click(); return; }
    tries = 0;
    const came = wanted !== null; // by its address, which stands already
    wanted = null;
    if (nameOf(open) === here) return;
    const first = here === null;
    here = nameOf(open);
    document.documentElement.dataset.tab = here;
    setTimeout(fillName, 100);
    if (!first) write(came ? "replaceState" : "pushState");
  }
  addEventListener("popstate", () => { wanted = read() ?? "analyse"; followTabs(); });

  // Until its turn comes, the line under a button says where one stands.
  let waitsSince = null;
  async function tellPlace() {
    const line = document.querySelector("[data-waits]");
    if (!line) { waitsSince = null; return; }
    waitsSince ??= performance.now();
    line.lastElementChild.textContent = `${Math.round((performance.now() - waitsSince) / 1000)} s`;
    try {
      const { place, more } = await (await fetch(`line?session=${encodeURIComponent(line.dataset.waits)}`)).json();
      const [said, beside] = line.firstElementChild.children;
      if (!place || !beside) return; // it runs by now
      if (said.textContent !== place) said.textContent = place;
      beside.textContent = more;
    } catch { /* the server will be asked again */ }
  }
  setInterval(tellPlace, 1000);

  // A press makes room at once for what the server will fill in: what comes later than it must not move the page.
  const room = document.documentElement.dataset;
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#stop, #halt")) delete room.room;
    const button = event.target.closest?.("#analyse, .mm-example, #explain, [data-explain]");
    if (!button) return;
    const wanted = ["tall", "low", "flat"].find((size) => button.classList.contains(`mm-${size}`));
    room.room = button.matches("#explain, [data-explain]") ? "why" : wanted ?? "line";
  }, true);
  function giveRoomBack() {
    const there = (what) => document.querySelector(what) !== null;
    const filled = {
      why: () => !there("#doing .mm-busy") && (there("#why h2") || there("#doing .mm-status")),
      tall: () => there("#status .mm-busy") && there("#chips li"),
      low: () => there("#status .mm-busy") && there("#chips li"),
      flat: () => there("#status .mm-busy") && !there("#chips li"),
      line: () => there("#status .mm-status"),
    }[room.room];
    if (filled?.()) delete room.room;
  }

  // gradio names every language that it speaks itself; what stands here is in one that the page speaks.
  new MutationObserver(() => {
    if (document.documentElement.lang !== mmerLanguage) document.documentElement.lang = mmerLanguage;
  }).observe(document.documentElement, { attributes: true, attributeFilter: ["lang"] });

  let due = false;
  new MutationObserver((changes) => {
    for (const { type, target } of changes)
      if (type === "attributes" && target.matches("fieldset input[type=radio]")) groupRadio(target);
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      nameGroups();
      colourSymbols();
      giveRoomBack();
      followTabs();
      speak();
    });
  }).observe(document.documentElement, {
    childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ["name", "aria-selected"],
  });
  return { say, keep, kept, where, address, whyNoMedia };
})();

// The list of what will be read: its buttons say which file goes, and a picture that is pasted comes in.
window.mmerChips = (() => {
  const chips = { index: 0 };
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-remove]");
    if (!button) return;
    chips.index = Number(button.dataset.remove);
    document.getElementById("remove-file").click();
  });
  document.addEventListener("paste", (event) => {
    const input = document.querySelector("#drop input[type=file]");
    const files = event.clipboardData?.files;
    if (!input || !files?.length || document.getElementById("analyse")?.checkVisibility() !== true) return;
    event.preventDefault();
    input.files = files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
  return chips;
})();

// The checkpoint's name in a result leads to what is said of it below.
document.addEventListener("click", (event) => {
  if (!event.target.closest?.("[data-card]")) return;
  event.preventDefault();
  const fold = document.querySelector("#model-card > button");
  if (fold && !fold.classList.contains("open")) fold.click();
  document.getElementById("model-card")?.scrollIntoView({ behavior: "smooth", block: "start" });
});
