// Recordings as the browser plays them: fetched once, one at a time, from any second to any other.

import { request } from "../api.js";

const PEAKS = 300; // of a waveform
let playing = null;

// The daemon's WAV files: a head of 44 bytes, then 16-bit samples.
function peaksOf(content) {
  const samples = new Int16Array(content.slice(44, content.byteLength - (content.byteLength % 2)));
  const step = Math.max(1, Math.floor(samples.length / PEAKS));
  const peaks = new Float32Array(Math.ceil(samples.length / step));
  samples.forEach((sample, i) => {
    const at = Math.floor(i / step);
    peaks[at] = Math.max(peaks[at], Math.abs(sample) / 32768);
  });
  return peaks;
}

export class Sound {
  // `fetching` gives the WAV as a Blob.
  constructor(fetching) {
    this.fetching = fetching;
    this.audio = new Audio();
    this.until = null;
    this.listeners = new Set();
    const tell = () => this.tell();
    for (const event of ["play", "pause", "ended", "seeked", "timeupdate"]) this.audio.addEventListener(event, tell);
  }

  load() {
    this.loading ??= this.fetching().then(async (blob) => {
      this.peaks = peaksOf(await blob.arrayBuffer());
      this.url = URL.createObjectURL(blob);
      this.audio.src = this.url;
    }).catch((error) => {
      this.loading = null;
      throw error;
    });
    return this.loading;
  }

  async play(start = null, end = null) {
    await this.load();
    if (playing !== this) playing?.pause();
    playing = this;
    if (start !== null) this.audio.currentTime = start;
    this.until = end;
    try {
      await this.audio.play();
    } catch (error) {
      if (error.name !== "AbortError") throw error; // paused before it began
    }
    this.watch();
  }

  pause() {
    this.audio.pause();
  }

  toggle() {
    if (this.audio.paused) return this.play();
    this.pause();
    return Promise.resolve();
  }

  get running() {
    return !this.audio.paused && !this.audio.ended;
  }

  // While it plays each frame is told: words light up on time, and a stretch ends where it should.
  watch() {
    cancelAnimationFrame(this.frame);
    if (!this.running) return;
    this.tell();
    this.frame = requestAnimationFrame(() => this.watch());
  }

  tell() {
    if (this.until !== null && this.audio.currentTime >= this.until) {
      this.until = null;
      this.pause();
    }
    for (const listener of this.listeners) listener(this.audio.currentTime, this.running);
  }

  on(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  close() {
    this.pause();
    if (this.url) URL.revokeObjectURL(this.url);
  }
}

export const soundOfClip = (chat, clip) =>
  new Sound(async () => (await request("GET", `ask/chats/${chat}/clips/${clip}/audio`)).blob());

// The daemon's voice.
const said = new Map();
export async function say(text, language) {
  const key = `${language} ${text}`;
  if (!said.has(key)) {
    if (said.size > 20) said.clear();
    said.set(key, new Sound(async () => (await request("POST", "ask/say", { body: { text: text.slice(0, 1000), language } })).blob()));
  }
  await said.get(key).play(0);
}
