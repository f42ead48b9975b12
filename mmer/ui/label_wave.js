// The strip beneath a clip in Label: how loud it is, where one is in it, what is to be judged, and the way to any place.
"use strict";
window.mmerWave = (() => {
  const drawn = new Map(); // address of a clip -> promise of the strip's path
  const byId = (id) => document.getElementById(id);
  const strip = () => byId("mm-wave");
  let clip = null;
  let item = null;
  let frame = 0; // the next in which the line moves, while the clip plays
  let outside = () => {}; // what a place outside of what is to be judged does

  async function path(address) {
    const answer = await fetch(`${address}/peaks`).catch(() => null);
    const { peaks } = answer?.ok ? await answer.json() : { peaks: [] };
    const x = (i) => (400 * (i + 0.5) / peaks.length).toFixed(1);
    return peaks.map((share, i) => `M${x(i)} ${50 - share * 0.46 - 1}V${50 + share * 0.46 + 1}`).join("");
  }
  function load(address) {
    if (!drawn.has(address)) drawn.set(address, path(address));
    if (drawn.size > 20) drawn.delete(drawn.keys().next().value);
    return drawn.get(address);
  }

  const share = (at_s) => clip?.duration ? Math.min(1, Math.max(0, at_s / clip.duration)) : 0;
  function place() {
    cancelAnimationFrame(frame); // whoever asked for it: one line moves once a frame
    const shown = strip(); // it goes with the stage, while its clip may still play
    if (!clip || !shown) return;
    shown.style.setProperty("--at", share(clip.currentTime));
    shown.style.setProperty("--from", share(item.start_s ?? 0));
    shown.style.setProperty("--to", item.end_s == null ? 1 : share(item.end_s));
    if (!clip.paused) frame = requestAnimationFrame(place);
  }
  // What a screen reader says of it; not while it plays, or it would talk over the clip.
  function tell() {
    if (!clip?.duration || !strip() || !clip.paused && !clip.seeking) return;
    const words = mmerText("{at} of {length} seconds", {
      at: clip.currentTime.toFixed(1), length: clip.duration.toFixed(1),
    });
    Object.assign(strip(), {
      ariaValueMax: clip.duration.toFixed(1), ariaValueNow: clip.currentTime.toFixed(1), ariaValueText: words,
    });
  }

  function show(media, shown, leave) {
    const [found, asked] = [strip(), media?.src];
    [clip, item, outside] = [media, shown, leave];
    found.hidden = !media;
    found.querySelector("path").setAttribute("d", "");
    if (!media) return;
    load(asked).then((d) => { if (clip?.src === asked) found.querySelector("path").setAttribute("d", d); });
    if (!media.mmFollowed) {
      media.mmFollowed = true;
      for (const what of ["play", "seeking", "timeupdate", "loadedmetadata"]) media.addEventListener(what, place);
      for (const what of ["pause", "seeking", "loadedmetadata"]) media.addEventListener(what, tell);
    }
    place();
    tell();
  }

  function go(to_s) {
    if (!clip?.duration) return;
    const at_s = Math.min(clip.duration, Math.max(0, to_s));
    if (item.end_s != null && (at_s < item.start_s || at_s > item.end_s)) outside();
    clip.currentTime = at_s;
    place(); // at once: "seeking" comes later, and on a busy machine after the next key
    tell();
  }
  function point(event) {
    const box = strip().getBoundingClientRect();
    go(clip?.duration * (event.clientX - box.left) / box.width);
  }
  document.addEventListener("pointerdown", (event) => {
    if (event.button || !event.target.closest?.("#mm-wave")) return;
    strip().setPointerCapture(event.pointerId);
    point(event);
  });
  document.addEventListener("pointermove", (event) => {
    if (event.buttons && strip()?.hasPointerCapture(event.pointerId)) point(event);
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.id !== "mm-wave" || !clip || event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5 }[event.key];
    if (by) go(clip.currentTime + by);
    else if (event.key === "Home") go(item.start_s ?? 0);
    else if (event.key === "End") go(item.end_s ?? clip.duration);
    else return;
    event.preventDefault();
  });
  return { load, show, loop: (on) => { strip().dataset.loop = on; } };
})();
