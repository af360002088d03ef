// A clip: its spectrogram is where one sees what plays and seeks; the browser's own audio element plays it.

import { address, api } from "../api.js";
import { number, texts } from "../i18n.js";
import { Button, failed, html, useEffect, useRef, useState } from "../ui.js";

const t = texts({
  en: { play: "Play", pause: "Pause", position: "Position in the recording", of: "{now} of {all} s", picture: "Spectrogram: time to the right, pitch upwards", said: "What was said; choose a word to hear it" },
  ja: { play: "再生", pause: "一時停止", position: "再生位置", of: "{now} / {all} 秒", picture: "スペクトログラム：横が時間、縦が音の高さ", said: "話した内容。単語を選ぶとそこから再生します" },
});

// Where the time axis begins in the picture (assistant/spectrogram.py): 640 × 320 pixels with labels left and below, which
// are cut off where it is small (style.css).
const LABELS = 40 / 640;
const SEEK = 0.5; // s that an arrow key moves

let playing = null; // one at a time

const ICONS = { play: "M8 5v14l11-7z", pause: "M7 5h4v14H7zM13 5h4v14h-4z" };
const Icon = ({ name }) => html`<svg viewBox="0 0 24 24" class="icon solid" aria-hidden="true"><path d=${ICONS[name]} /></svg>`;

const SPACELESS = new Set(["ja", "zh", "yue", "th", "lo", "my"]);

export function Transcript({ event, at, choose }) {
  const { words, text, language } = event;
  if (!words?.length) return html`<blockquote lang=${language ?? undefined}>${text}</blockquote>`;
  const gap = SPACELESS.has(language) ? "" : " ";
  return html`<blockquote lang=${language ?? undefined} aria-label=${choose && t("said")}>
    ${words.map((word, index) => {
      const lit = at !== null && at >= word.start && at < Math.max(word.end, word.start + 0.12);
      const said = word.word.trim();
      return html`${index ? gap : ""}${choose
        ? html`<button type="button" class="word ${lit ? "lit" : ""}" onClick=${() => choose(word.start)}>${said}</button>`
        : html`<span>${said}</span>`}`;
    })}
  </blockquote>`;
}

export function Player({ entry, large = false }) {
  const { event, clip } = entry;
  const audio = useRef(null);
  const [on, setOn] = useState(false);
  const [time, setTime] = useState(0);
  const [lengths, setLengths] = useState(entry.lengths ?? null);
  const asked = useRef(null);

  // Its length, and where in it the event begins: asked for when somebody wants to hear it.
  const measured = () => {
    asked.current ??= lengths ? Promise.resolve(lengths) : api.get(`events/${event.id}`).then((found) => {
      setLengths(found.lengths);
      return found.lengths;
    });
    return asked.current;
  };
  const all = lengths?.seconds ?? (Number.isFinite(audio.current?.duration) ? audio.current.duration : null);
  const before = lengths?.before ?? 0;

  const toggle = async (from) => {
    const player = audio.current;
    if (!player.paused && from === undefined) return player.pause();
    try {
      if (playing && playing !== player) playing.pause();
      playing = player;
      const { before: begins } = (await measured()) ?? {};
      if (from !== undefined) player.currentTime = Math.max(0, from + (begins ?? 0));
      await player.play();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (player.error) return why();
      failed(error);
    }
  };
  // The element does not tell why it has no sound: the API does.
  const why = () => api.get(`events/${event.id}/clip`).then(() => failed(new Error(audio.current.error?.message)), failed);

  useEffect(() => {
    if (!on) return;
    let frame = 0;
    const follow = () => {
      setTime(audio.current.currentTime);
      frame = requestAnimationFrame(follow);
    };
    follow();
    return () => cancelAnimationFrame(frame);
  }, [on]);
  useEffect(() => () => audio.current?.pause(), []);

  const left = large ? LABELS : 0;
  const share = all ? Math.min(1, time / all) : 0;
  const seek = async (to) => {
    const found = await measured().catch(failed);
    if (!found) return;
    audio.current.currentTime = Math.min(Math.max(0, to), found.seconds);
    setTime(audio.current.currentTime);
  };
  const click = async (pointer) => {
    const box = pointer.currentTarget.getBoundingClientRect();
    const found = await measured().catch(failed);
    if (found) seek(Math.max(0, ((pointer.clientX - box.left) / box.width - left) / (1 - left)) * found.seconds);
  };
  const key = (pressed) => {
    const step = { ArrowRight: SEEK, ArrowLeft: -SEEK }[pressed.key];
    if (step === undefined) return;
    pressed.preventDefault();
    seek((audio.current?.currentTime ?? 0) + step);
  };

  const transcript = event.text && html`<${Transcript} event=${event} at=${on || time ? time - before : null} choose=${event.words?.length ? (start) => toggle(start) : null} />`;
  return html`<div class="player ${large ? "large" : ""} ${clip.picture ? "" : "bare"}">
    <div class="media">
      ${clip.picture && html`<div class="spectrum" role="slider" tabindex="0" aria-label=${t("position")} aria-valuemin="0" aria-valuemax=${all ?? 0}
          aria-valuenow=${Math.round(10 * time) / 10} aria-valuetext=${t("of", { now: number(time), all: number(all) })} onClick=${click} onKeyDown=${key}>
        <img src=${address(`events/${event.id}/picture`).href} alt=${t("picture")} loading="lazy" width="640" height="320" />
        <span class="head" style=${{ left: `${100 * (left + share * (1 - left))}%` }} hidden=${!time}></span>
      </div>`}
      <${Button} class="play" kind=${on ? "" : "primary"} aria-label=${t(on ? "pause" : "play")} onClick=${() => toggle()}><${Icon} name=${on ? "pause" : "play"} /><//>
      <audio ref=${audio} preload="none" src=${address(`events/${event.id}/clip`).href}
        onPlay=${() => setOn(true)} onPause=${() => setOn(false)} onEnded=${() => { audio.current.currentTime = 0; setOn(false); setTime(0); }}></audio>
    </div>
    ${transcript}
  </div>`;
}
