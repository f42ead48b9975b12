// Live: camera and microphone go to the server a picture at a time, and what it says of them scrolls by as curves.
"use strict";
window.mmerLive = (() => {
  const SHOWN_S = 60, SIDE_PX = 512, QUALITY = 0.8, DRAWN = 0.25, MARK_EVERY_S = 7, HELD_S = 4, SAY_EVERY_MS = 5000;
  const EMOTIONS = Object.keys(mmerSigns);
  // Runs beside the page and hands on the microphone's samples.
  const LISTENER = `registerProcessor("mmer-listener", class extends AudioWorkletProcessor {
    process([input]) { if (input[0]) this.port.postMessage(input[0].slice()); return true; }
  });`;
  const live = { streams: {}, updates: [], points: [] };
  let turn = 0; // counts what was begun: a loop of before ends when it sees another number
  let said = { emotion: "", atMs: 0 };

  const byId = (id) => document.getElementById(id);
  const word = (of) => document.querySelector(`#live-words [data-of="${of}"]`)?.textContent ?? "";

  function tell(...words) {
    const line = byId("live-told");
    if (!line) return;
    line.textContent = words.filter(Boolean).join(" ");
    line.hidden = !line.textContent;
  }

  async function open(kind) {
    const wanted = kind === "face" ? { video: { width: 640, height: 480, facingMode: "user" } } : { audio: true };
    try {
      live.streams[kind] = await navigator.mediaDevices.getUserMedia(wanted);
      return "";
    } catch (error) {
      return word(`${kind}-${error.name}`) || word(`${kind}-other`);
    }
  }

  // Asks for the devices; returns those that may be used. Either alone is enough.
  async function ask(kinds) {
    stop();
    if (!kinds?.length) return tell(word("nothing")), [];
    if (!navigator.mediaDevices?.getUserMedia) return tell(word("insecure")), [];
    const problems = [];
    for (const kind of ["face", "voice"]) if (kinds.includes(kind)) problems.push(await open(kind));
    const given = Object.keys(live.streams);
    const alone = given.length === 1 && kinds.length === 2 ? word(`${given[0]}-alone`) : "";
    tell(...problems, given.length ? alone : word("again"));
    return given;
  }

  async function begin(ticket) {
    if (!ticket?.token || live.token) return;
    live.token = ticket.token;
    live.points = [];
    live.updates = [];
    document.documentElement.dataset.live = "on";
    const mine = ++turn;
    for (const [kind, stream] of Object.entries(live.streams))
      for (const track of stream.getTracks()) track.onended = () => { if (mine === turn) lose(kind); };
    if (live.streams.face) {
      byId("live-video").srcObject = live.streams.face;
      byId("live-video").play().catch(() => {}); // a picture comes all the same where it may not play
    }
    if (live.streams.voice) await listen(live.streams.voice).catch(() => { if (mine === turn) lose("voice", "other"); });
    while (mine === turn) await step(mine);
  }

  function lose(kind, why = "ended") {
    const others = Object.keys(live.streams).filter((one) => one !== kind);
    live.streams[kind]?.getTracks().forEach((track) => track.stop());
    delete live.streams[kind];
    if (!others.length) stop();
    tell(word(`${kind}-${why}`), others.length ? word(`${others[0]}-alone`) : word("again"));
  }

  async function listen(stream) {
    const context = new AudioContext();
    live.audio = context;
    live.sound = [];
    const module = URL.createObjectURL(new Blob([LISTENER], { type: "text/javascript" }));
    await context.audioWorklet.addModule(module);
    URL.revokeObjectURL(module);
    const node = new AudioWorkletNode(context, "mmer-listener");
    node.port.onmessage = ({ data }) => {
      live.sound?.push(data);
      while (live.sound?.length * data.length > HELD_S * context.sampleRate) live.sound.shift(); // a slow server: the last seconds
    };
    context.createMediaStreamSource(stream).connect(node);
    await context.resume();
  }

  const canvas = document.createElement("canvas");
  async function picture() {
    const video = byId("live-video");
    if (!live.streams.face || !video?.videoWidth) return new Blob();
    const scale = Math.min(SIDE_PX / Math.max(video.videoWidth, video.videoHeight), 1);
    canvas.width = Math.round(video.videoWidth * scale);
    canvas.height = Math.round(video.videoHeight * scale);
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    return (await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY))) ?? new Blob();
  }

  function soundSince() {
    const pieces = live.sound?.splice(0) ?? [];
    const samples = new Int16Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
    let at = 0;
    for (const piece of pieces) for (const x of piece) samples[at++] = Math.max(-1, Math.min(x, 1)) * 32767;
    return samples;
  }

  const sleep = (ms) => new Promise((done) => setTimeout(done, Math.max(ms, 10)));

  // One picture and its answer. The next waits for it: a server that is slower than the camera has no queue.
  async function step(mine) {
    if (!byId("live-video")?.checkVisibility()) return stop("left");
    const sinceMs = performance.now();
    const jpeg = await picture(), samples = soundSince();
    const head = new Uint32Array([live.audio?.sampleRate ?? 0, jpeg.size]);
    let reply, found;
    try {
      reply = await fetch(`live/${live.token}`, { method: "POST", body: new Blob([head, jpeg, samples]) });
      found = await reply.json();
    } catch {
      if (mine === turn) stop("lost");
      return;
    }
    if (mine !== turn) return;
    if (found.error && reply.status !== 429) {
      stop();
      return tell(found.error.message[0].toUpperCase() + found.error.message.slice(1) + ".");
    }
    if (!found.error) {
      const nowMs = performance.now();
      live.updates.push({ atMs: nowMs, tookMs: nowMs - sinceMs, seen: found.face !== null, heard: found.voice !== null });
      while (live.updates.length > 3000) live.updates.shift();
      live.points.push({ atMs: nowMs, ...found });
      while (nowMs - live.points[0].atMs > SHOWN_S * 1000) live.points.shift();
      draw(nowMs, found);
    }
    await sleep(1000 * (found.next_s ?? 0.2) - (performance.now() - sinceMs));
  }

  function stop(why) {
    turn++;
    if (live.token) navigator.sendBeacon(`live/${live.token}/stop`);
    live.token = null;
    for (const stream of Object.values(live.streams)) stream.getTracks().forEach((track) => track.stop());
    live.streams = {};
    live.audio?.close();
    live.audio = live.sound = null;
    if (byId("live-video")) byId("live-video").srcObject = null;
    const rate = byId("live-rate");
    if (rate) rate.textContent = rate.dataset.idle;
    delete document.documentElement.dataset.live;
    tell(why ? word(why) : "");
  }

  const named = (emotion) => document.querySelector(`#live [data-legend=${emotion}]`).innerHTML;
  const y = (share) => 100 * (1 - 0.92 * share) - 4; // as the curves of a clip

  function draw(nowMs, found) {
    const x = (atMs) => 1000 * (1 - (nowMs - atMs) / (SHOWN_S * 1000));
    for (const strip of document.querySelectorAll("#live [data-channel]")) {
      const channel = strip.dataset.channel, marks = [];
      EMOTIONS.forEach((emotion, k) => {
        const shares = live.points.map((point) => point[channel]?.[k] ?? null);
        const drawn = live.points.some(({ [channel]: all }) => all && (all[k] >= DRAWN || all[k] === Math.max(...all)));
        let path = "";
        if (drawn)
          shares.forEach((share, i) => {
            if (share === null) return;
            path += `${i && shares[i - 1] !== null ? "L" : "M"}${x(live.points[i].atMs).toFixed(1)} ${y(share).toFixed(1)}`;
          });
        strip.querySelector(`[data-emotion=${emotion}]`).setAttribute("d", path);
        if (drawn) marks.push(...marksOf(emotion, k, shares, x));
      });
      strip.querySelector(".mm-marks").innerHTML = marks.join("");
      tellFirst(strip.querySelector("[data-first]"), channel, found);
    }
    tellRate(nowMs, found);
  }

  // The curve's symbol where it begins, where it ends and every few seconds, each emotion's later than the one before.
  function marksOf(emotion, k, shares, x) {
    const at = (i) => `<span class="mm-sign" data-symbol="${mmerSigns[emotion]}" style="--tone: var(--mm-${emotion});`
      + `left: ${(x(live.points[i].atMs) / 10).toFixed(2)}%; top: ${y(shares[i]).toFixed(1)}%"></span>`;
    const slot = (i) => Math.floor(live.points[i].atMs / 1000 / MARK_EVERY_S + k / EMOTIONS.length);
    const marks = [];
    shares.forEach((share, i) => {
      const begins = i === 0 || shares[i - 1] === null || slot(i) !== slot(i - 1);
      if (begins && share > 0.05) marks.push(at(i));
    });
    const last = shares.length - 1;
    if (shares[last] > 0.05) marks.push(at(last));
    return marks;
  }

  function tellFirst(place, channel, { [channel]: shares, heard }) {
    if (!shares) {
      const off = channel !== "together" && !live.streams[channel];
      place.textContent = word(off ? "off" : channel === "voice" && !heard ? "listening" : `no-${channel}`);
      return;
    }
    const k = shares.indexOf(Math.max(...shares));
    place.innerHTML = `${named(EMOTIONS[k])} ${Math.round(100 * shares[k])} %`;
    if (channel !== "together" || said.emotion === EMOTIONS[k] || performance.now() - said.atMs < SAY_EVERY_MS) return;
    said = { emotion: EMOTIONS[k], atMs: performance.now() };
    mmerPage.say(place.textContent.trim());
  }

  function tellRate(nowMs, found) {
    const lately = live.updates.filter(({ atMs }) => nowMs - atMs < 5000);
    const rate = lately.length > 1 ? (1000 * (lately.length - 1)) / (nowMs - lately[0].atMs) : 0;
    byId("live-rate").textContent = `${rate.toFixed(1)} ${word("rate")}${found.next_s > 0.3 ? `; ${word("beside")}` : ""}`;
  }

  addEventListener("pagehide", () => { if (live.token) stop(); });
  return { ask, begin, stop, state: live };
})();
