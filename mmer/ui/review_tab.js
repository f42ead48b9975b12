// The Review tab's keys: they press the buttons a mouse would press, so both do the same.
"use strict";
window.mmerReview = (() => {
  const FIELDS = "input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable=true]";
  const BUTTONS = {
    Enter: "review-decide", c: "review-cannot", x: "review-broken", u: "review-take-back",
  };
  const byId = (id) => document.getElementById(id);
  const press = (id) => {
    const block = byId(id);
    (block?.matches("button") ? block : block?.querySelector("button"))?.click();
  };

  // Up or down the list; past its end, on to the items after it.
  function step(by) {
    const items = [...(byId("review-items")?.querySelectorAll("input") ?? [])];
    const at = items.findIndex((item) => item.checked);
    const next = items[at < 0 ? 0 : at + by];
    if (next) next.click();
    else if (items.length) press(by > 0 ? "review-next" : "review-previous");
  }

  function key(event) {
    const writing = event.target.closest?.(FIELDS);
    if (writing || event.ctrlKey || event.metaKey || event.altKey || !byId("review-items")?.offsetParent) return;
    const own = { Enter: "button, a, summary, [role=tab]", " ": "button, a, summary, input, [role=tab]" }[event.key];
    if (own && event.target.closest?.(own)) return;
    const open = byId("review-panel")?.offsetParent;
    const digit = /^[1-7]$/.test(event.key) ? event.key : null;
    const clip = document.querySelector("#review-detail :is(video, audio)");
    if (event.key === "n" || event.key === "p") step(event.key === "n" ? 1 : -1);
    else if (event.key === "?") byId("mm-review-help").togglePopover();
    else if (!open) return;
    else if (digit) {
      const labels = [...byId("review-final").querySelectorAll("label")];
      const chosen = mmerLabel.emotions[digit - 1];
      labels.map((label) => label.querySelector("input")).find((input) => input.name === chosen)?.click();
    } else if (BUTTONS[event.key]) { if (event.repeat) return; press(BUTTONS[event.key]); }
    else if (event.key === " " && clip) { if (clip.paused) clip.play().catch(() => {}); else clip.pause(); }
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
  document.addEventListener("keydown", key, true);
  document.addEventListener("keydown", (event) => {
    const writing = event.key === "Escape" && event.target.closest?.(FIELDS);
    if (writing && byId("review-panel")?.contains(writing)) writing.blur();
  });

  document.addEventListener("error", async ({ target }) => {
    const clip = target.closest?.("#review-detail .mm-clip");
    if (!clip) return;
    const { words } = await mmerPage.whyNoMedia(clip.currentSrc || clip.src);
    const told = Object.assign(document.createElement("p"), { className: "mm-hint", textContent: words });
    clip.replaceWith(told);
  }, true);

  function remembered() {
    const [project, item] = mmerPage.where("review");
    return [project ?? "", item ?? "", true];
  }
  // Another project than the address names: its item is not open.
  function chose(project) {
    if (mmerPage.where("review")[0] !== project) mmerPage.address("review", project);
  }
  return { remembered, chose };
})();
