// The clip over its time: utterances play, the place on the curves moves, and captions show by themselves.
"use strict";
window.mmerTimeline = (() => {
  const timeline = { index: -1, until: null, save };
  const player = () => document.getElementById("mm-player");
  const beside = () => document.getElementById("mm-beside");

  function play(startS, endS) {
    const media = player();
    if (!media) return;
    timeline.until = endS;
    media.currentTime = startS;
    media.play();
  }

  // Gives a file to the browser without one on the server.
  function save(file) {
    if (!file) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([file.text], { type: file.type }));
    link.download = file.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  function press(id, index) {
    timeline.index = index;
    document.getElementById(id)?.click();
  }

  function correctWords(index) {
    const words = document.querySelector("#transcript textarea");
    if (!words) return;
    const lines = words.value.split("\n");
    const line = lines.length > index ? index : 0;
    const start = lines.slice(0, line).reduce((sum, each) => sum + each.length + 1, 0);
    words.focus();
    words.setSelectionRange(start, start + lines[line].length);
    words.scrollIntoView({ block: "center" });
  }

  document.addEventListener("click", (event) => {
    const at = event.target.closest?.("[data-play], [data-explain], [data-words], [data-face], [data-seek], [data-again], [data-compare]");
    if (!at) return;
    const row = at.closest("li");
    if ("play" in at.dataset) play(Number(row.dataset.start), Number(row.dataset.end));
    else if ("explain" in at.dataset) press("explain-utterance", Number(at.dataset.explain));
    else if ("again" in at.dataset) press("show-again", Number(at.dataset.again));
    else if ("compare" in at.dataset) press("compare-with", Number(at.dataset.compare));
    else if ("face" in at.dataset) press("choose-face", Number(at.dataset.face));
    else if ("words" in at.dataset) correctWords(Number(at.dataset.words));
    else if (player()) {
      const box = at.getBoundingClientRect();
      const lengthS = Number(at.closest("[data-length]")?.dataset.length);
      if (lengthS) play((lengthS * (event.clientX - box.left)) / box.width, null);
    }
  });

  function follow(event) {
    const media = event.target;
    if (media !== player()) return;
    const card = media.closest(".mm-timeline"), atS = media.currentTime;
    card.style.setProperty("--at", String(Math.min(atS / Number(card.dataset.length), 1)));
    for (const row of card.querySelectorAll(".mm-utterances li"))
      row.toggleAttribute("data-now", Number(row.dataset.start) <= atS && atS < Number(row.dataset.end));
    if (timeline.until !== null && atS >= timeline.until) {
      timeline.until = null;
      media.pause();
    }
  }
  document.addEventListener("timeupdate", follow, true);

  // The sound of another file goes with the picture.
  for (const name of ["play", "pause", "seeked"])
    document.addEventListener(name, (event) => {
      const sound = beside();
      if (event.target !== player() || !sound) return;
      sound.currentTime = event.target.currentTime;
      if (name === "play") sound.play();
      if (name === "pause") sound.pause();
    }, true);
  return timeline;
})();
