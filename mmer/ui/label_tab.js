// The Label tab's keys and its stage. Keys press the buttons a mouse would press, so both do the same.
"use strict";
window.mmerLabel = (() => {
  const loaded = new Map(); // assignment id -> element that holds its media
  const failed = new Map(); // assignment id -> why it cannot be shown
  const state = { item: null, since: 0, whole: false, loop: false, targets: ["all"], target: 0, renewed: -10000 };
  // While an answer is on its way the next item is here already, and keys about it wait until the form is its own.
  const way = { upcoming: null, left: null, keys: [] };
  const FIELDS = "input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable=true], #mm-words[contenteditable]";
  const EMOTIONS = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]; // as their keys go
  const TARGETS = ["all", "face", "voice", "text"];
  const nameOf = (label) => label.querySelector("input").name;
  const ORDINALS = [
    mmerText("1st"), mmerText("2nd"), mmerText("3rd"), mmerText("4th"), mmerText("5th"), mmerText("6th"), mmerText("7th"),
  ];
  // What is chosen for the item on the screen, for the case that the page is loaded again before it is submitted.
  const held = () => { try { return window.sessionStorage; } catch { return null; } };
  let draft = JSON.parse(held()?.getItem("mmer-draft") ?? "{}");
  const MODES = { " ": "play", w: "whole", h: "slow", f: "face", v: "voice", o: "text", l: "loop" };
  const byId = (id) => document.getElementById(id);
  const say = (words) => { const live = byId("mm-live"); if (live) live.textContent = words; };
  const press = (id) => {
    const block = byId(id);
    (block?.matches("button") ? block : block?.querySelector("button"))?.click();
  };
  const modeButton = (mode) => document.querySelector(`#label-stage [data-mm="${mode}"]`);
  const player = () => byId("mm-screen")?.querySelector("video, audio");

  function element(item) {
    const tag = { video: "video", audio: "audio", image: "img" }[item.kind];
    if (!tag || !item.media) return null;
    const made = document.createElement(tag);
    made.src = item.media;
    made.addEventListener("error", () => cannotShow(item, made));
    if (tag === "img") { made.alt = mmerText("The picture to judge"); return made; }
    mmerWave.load(made.src);
    Object.assign(made, { controls: true, preload: "auto", playsInline: true });
    made.setAttribute("aria-label", mmerText("The clip to judge"));
    made.addEventListener("timeupdate", () => {
      const { start_s, end_s } = state.item ?? {};
      if (state.whole || end_s == null || made.currentTime < end_s) return;
      if (state.loop && !made.paused) made.currentTime = start_s;
      else made.pause();
    });
    made.addEventListener("ended", () => {
      if (!state.loop) return;
      made.currentTime = state.whole ? 0 : state.item?.start_s ?? 0;
      made.play().catch(() => say(mmerText("Press space to play")));
    });
    return made;
  }

  async function cannotShow(item, made) {
    const { over, words } = await mmerPage.whyNoMedia(made.src);
    if (loaded.get(item.id) !== made) return;
    loaded.delete(item.id); // the next feed brings another link
    const again = over && performance.now() - state.renewed > 10000;
    if (again && state.item?.id === item.id) { state.renewed = performance.now(); press("label-start"); }
    if (again) return;
    failed.set(item.id, `${words} ${mmerText("Skip it, or say that it is broken.")}`);
    if (state.item?.id === item.id) name(item);
  }

  function name(item) {
    const note = failed.get(item.id) || item.note;
    byId("mm-name").textContent = note || item.name;
    byId("mm-name").dataset.note = Boolean(note); // a phone has no room for a mere name
  }

  function remember(what, value) {
    if (!state.item || state.item.id !== draft.id) return;
    draft[what] = value;
    if (what === "transcript" && value && words() !== document.activeElement) words().textContent = value;
    if (!way.left) keep(); // until an answer is stored, a reload brings its item back
  }
  const keep = () => held()?.setItem("mmer-draft", JSON.stringify(draft));
  function remembered() {
    return [mmerPage.where("label")[0] ?? "", mmerPage.kept("name"), draft.id ? JSON.stringify(draft) : "", true];
  }

  // What is chosen first weighs most, so where there are several each says its place and its share.
  function rank(block, chosen) {
    if (block.startsWith("label-")) remember(block.slice(6), chosen);
    const total = chosen.length * (chosen.length + 1) / 2;
    for (const label of byId(block)?.querySelectorAll("label") ?? []) {
      const place = chosen.findIndex((emotion) => nameOf(label) === emotion);
      delete label.dataset.rank;
      if (place >= 0 && chosen.length > 1)
        label.dataset.rank = `${ORDINALS[place]}, ${Math.round(100 * (chosen.length - place) / total)} %`;
    }
  }

  // What is said is corrected where it stands; the form's own field, which is not seen, takes it along.
  const words = () => byId("mm-words");
  function showWords(item, spoken) {
    const shown = words();
    shown.textContent = (draft.id === item.id && draft.transcript) || item.transcript;
    if (spoken) shown.contentEditable = "plaintext-only";
    else shown.removeAttribute("contenteditable");
    shown.role = spoken ? "textbox" : null;
    shown.ariaLabel = spoken ? mmerText("What is said, to be corrected") : null;
  }
  function wrote() {
    const field = document.querySelector("#label-transcript textarea");
    field.value = words().textContent;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  function edit() {
    if (!words().isContentEditable || words().hidden) return;
    words().focus();
    getSelection().selectAllChildren(words());
    getSelection().collapseToEnd();
  }

  function show(item) {
    byId("mm-help").hidePopover();
    state.item = item;
    state.whole = item.start_s == null;
    state.target = 0;
    const screen = byId("mm-screen");
    const media = loaded.get(item.id);
    screen.replaceChildren(...(media ? [media] : []));
    screen.hidden = false;
    name(item);
    showWords(item, Boolean(media) && item.kind !== "image");
    for (const button of document.querySelectorAll("#label-stage [aria-pressed]"))
      button.setAttribute("aria-pressed", String(button.dataset.mm === "loop" && state.loop));
    const clip = player();
    mmerWave.show(clip ?? null, item, () => { if (!state.whole) toggle("whole"); });
    if (clip) {
      if (item.start_s != null) clip.currentTime = item.start_s;
      clip.play().catch(() => say(mmerText("Press space to play")));
    }
    if (draft.id !== item.id) draft = { id: item.id, at: Date.now() };
    state.since = performance.now() - (Date.now() - draft.at);
    remember("id", item.id);
    const video = item.kind === "video";
    const useful = {
      play: clip, loop: clip, whole: item.start_s != null, slow: clip, face: video, voice: video, text: item.transcript,
    };
    for (const [mode, use] of Object.entries(useful)) modeButton(mode).hidden = !use;
    mark();
    const stage = document.querySelector(".mm-stage");
    stage.focus({ preventScroll: true });
    stage.scrollIntoView({ block: "nearest" }); // on a phone it lies above the buttons
    say(mmerText("New item: {name}", { name: item.kind === "text" ? item.transcript : item.name }));
  }

  // Called with what is chosen for each target when an answer is sent; returns the item it is about and its seconds.
  function leave(chosen) {
    const about = [state.item?.id ?? 0, seconds()];
    const missing = chosen && state.targets.some((target) => !chosen[TARGETS.indexOf(target)]?.length);
    if (missing || !way.upcoming || way.left) return about;
    way.left = { item: state.item, draft };
    hold(true);
    show(way.upcoming);
    return about;
  }
  function hold(on) {
    const form = byId("label-form"); // gone with the desk while somebody pauses
    if (form) Object.assign(form, { inert: on, ariaBusy: on });
  }
  // The answer was not stored: its item comes back, as it was filled in.
  function back() {
    if (!way.left) return;
    const { item, draft: filled } = way.left;
    [way.left, way.keys, draft] = [null, [], filled];
    hold(false);
    show(item);
  }
  function replay() {
    if (way.left || !way.keys.length) return;
    act(way.keys.shift());
    setTimeout(replay, 60);
  }

  function feed(sent) {
    if (!sent) return; // nobody has started
    const items = sent.items ?? [];
    const isHere = way.left && items[0]?.id === state.item?.id;
    if (!isHere) way.keys = []; // they were about another item
    [way.left, way.upcoming] = [null, items[1] ?? null];
    hold(false);
    state.targets = sent?.targets ?? ["all"];
    for (const item of items) if (item.media && !loaded.has(item.id)) loaded.set(item.id, element(item));
    for (const id of [...loaded.keys()]) if (!items.some((item) => item.id === id)) loaded.delete(id);
    document.documentElement.classList.toggle("mm-labelling", items.length > 0);
    if (isHere) { keep(); setTimeout(replay, 60); return; }
    if (items.length) { show(items[0]); return; }
    state.item = null;
    draft = {};
    held()?.removeItem("mmer-draft");
    player()?.pause();
    if (byId("mm-wave")) byId("mm-wave").hidden = true;
    byId("mm-screen")?.replaceChildren();
    if (byId("mm-name")) byId("mm-name").textContent = mmerText("Nothing is left.");
    if (byId("mm-words")) byId("mm-words").textContent = "";
  }

  function toggle(what) {
    const clip = player();
    if (what === "play") {
      if (!clip) return;
      if (!clip.paused) { clip.pause(); return; }
      const { start_s, end_s } = state.item ?? {};
      const outside = clip.currentTime < start_s || clip.currentTime >= end_s - 0.05;
      if (!state.whole && start_s != null && outside) clip.currentTime = start_s;
      clip.play().catch(() => say(mmerText("The browser cannot play this clip")));
      return;
    }
    const button = modeButton(what);
    if (button.hidden) return;
    const on = button.getAttribute("aria-pressed") !== "true";
    const exclusive = ["face", "voice", "text"];
    for (const other of exclusive.includes(what) ? exclusive : [what])
      modeButton(other).setAttribute("aria-pressed", String(other === what && on));
    const pressed = (mode) => modeButton(mode).getAttribute("aria-pressed") === "true";
    state.loop = pressed("loop");
    mmerWave.loop(state.loop);
    state.whole = pressed("whole") || state.item?.start_s == null;
    const screen = byId("mm-screen");
    screen.classList.toggle("mm-dark", pressed("voice"));
    screen.hidden = pressed("text");
    byId("mm-words").hidden = pressed("face") || pressed("voice");
    if (clip) {
      clip.playbackRate = pressed("slow") ? 0.5 : 1;
      clip.muted = pressed("face");
      if (pressed("text")) clip.pause();
    }
    const mode = button.textContent;
    say(on ? mmerText("{mode} on", { mode }) : mmerText("{mode} off", { mode }));
  }

  function group() { return byId(`label-${state.targets[state.target] ?? "all"}`); }
  function mark() {
    const asked = state.targets.length > 1 ? state.targets[state.target] : null;
    for (const target of TARGETS)
      byId(`label-${target}`)?.classList.toggle("mm-active", target === asked);
  }

  function answers() {
    const head = byId("label-answers")?.querySelector("button");
    head?.click();
    head?.scrollIntoView({ block: "nearest" });
    setTimeout(() => byId("label-given")?.querySelector("input")?.focus(), 400);
  }

  function choose(box, number, what) {
    const labels = [...(box?.querySelectorAll("label") ?? [])];
    const input = labels.find((label) => what(label, number))?.querySelector("input");
    if (!input) return;
    input.click();
    const name = input.closest("label").textContent.trim();
    setTimeout(() => say(input.checked ? mmerText("{name} chosen", { name }) : mmerText("{name} taken back", { name })), 50);
  }

  function key(event) {
    const writing = event.target.closest?.(FIELDS);
    if (writing) {
      if (event.key === "Escape" || event.key === "Enter" && writing === words()) writing.blur();
      if (event.key === "Enter" && writing === words()) event.preventDefault(); // one more Enter submits
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || !byId("label-stage")?.offsetParent) return;
    // What has the focus keeps its own keys: Enter and space press a button, space ticks a box.
    const own = { Enter: "button, a, summary, [role=tab]", " ": "button, a, summary, input, [role=tab]" }[event.key];
    if (own && event.target.closest?.(own)) return;
    if ((way.left || way.keys.length) && !MODES[event.key]) {
      if (!event.repeat) way.keys.push({ key: event.key, code: event.code, shiftKey: event.shiftKey });
    } else if (!act(event)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  // Does what a key is for; returns whether it is for anything.
  function act(event) {
    const digit = /^Digit([1-7])$/.exec(event.code)?.[1] ?? (/^[1-7]$/.test(event.key) ? event.key : null);
    const buttons = {
      c: "label-cannot", s: "label-skip", u: "label-undo", b: "label-reveal", x: "label-broken", p: "label-pause",
      Enter: "label-submit",
    };
    const levels = byId("label-intensity");
    if (digit && event.shiftKey) choose(levels, digit, (label, n) => label === levels.querySelectorAll("label")[n - 1]);
    else if (digit) choose(group(), digit, (label, n) => nameOf(label) === EMOTIONS[n - 1]);
    else if (event.key === "?") byId("mm-help").togglePopover();
    else if (event.key === "a") answers();
    else if (event.key === "e") edit();
    else if (event.key === "t") {
      state.target = (state.target + 1) % state.targets.length;
      mark();
      say(group()?.querySelector("span")?.textContent ?? "");
    } else if (buttons[event.key]) { if (event.repeat) return false; press(buttons[event.key]); }
    else if (MODES[event.key]) toggle(MODES[event.key]);
    else return false;
    return true;
  }

  document.addEventListener("keydown", key, true);
  document.addEventListener("input", (event) => { if (event.target === words()) wrote(); });
  document.addEventListener("focusout", (event) => {
    if (event.target === words() && !words().textContent.trim()) words().textContent = state.item?.transcript ?? "";
  });
  document.addEventListener("click", (event) => {
    const what = event.target.closest?.("[data-mm]")?.dataset.mm;
    if (what) toggle(what);
  });
  const seconds = () => (performance.now() - state.since) / 1000;
  const settled = () => !way.left && !way.keys.length;
  const id = () => state.item?.id ?? 0;
  const looked = () => draft.id === id() && Boolean(draft.looked); // at the model's answer on the item shown
  return { feed, leave, back, rank, remember, remembered, seconds, settled, state, id, looked, emotions: EMOTIONS };
})();
