// A recording to look at and to listen to, and words that light up while it plays.

import { number, texts } from "../i18n.js";
import { colour, failed, html, nonce, useEffect, useRef, useState } from "../ui.js";

const t = texts({
  en: { play: "Play {name}", pause: "Pause {name}", from: "Play from {time}", wave: "{name}, {seconds} s" },
  ja: { play: "{name}を再生", pause: "{name}を一時停止", from: "{time} から再生", wave: "{name}（{seconds} 秒）" },
});

export const clock = (seconds) => {
  const tenths = Math.round(10 * seconds);
  const minutes = Math.floor(tenths / 600);
  return `${minutes}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
};

export function usePlaying(sound) {
  const [state, set] = useState({ time: 0, running: false });
  useEffect(() => sound?.on((time, running) => set({ time, running })), [sound]);
  return state;
}

const Sign = ({ running }) => html`<svg viewBox="0 0 24 24" class="sign" aria-hidden="true"><path d=${running ? "M7 5h3.5v14H7zM13.5 5H17v14h-3.5z" : "M8 5l11 7-11 7z"} /></svg>`;

export function PlayButton({ sound, name, small = false }) {
  const { running } = usePlaying(sound);
  return html`<button type="button" class="round ${small ? "small" : ""}" aria-label=${t(running ? "pause" : "play", { name })}
    onClick=${() => sound.toggle().catch(failed)}><${Sign} running=${running} /></button>`;
}

// The waveform is for eyes and mouse: the button before it and the times below do the same by keyboard.
export function Player({ sound, name, seconds, children }) {
  const box = useRef(null);
  useEffect(() => {
    let wave = null;
    let gone = false;
    const paint = () => wave?.setOptions({ waveColor: colour("muted"), progressColor: colour("accent") });
    Promise.all([sound.load(), import("../vendor/wavesurfer.esm.js")]).then(([, { default: WaveSurfer }]) => {
      if (gone) return;
      wave = WaveSurfer.create({
        container: box.current, media: sound.audio, peaks: [sound.peaks], duration: seconds, height: 36, barWidth: 2, barGap: 1, barRadius: 2, cursorWidth: 1, normalize: true,
        cspNonce: nonce(), waveColor: colour("muted"), progressColor: colour("accent"),
      });
    }).catch((error) => gone || failed(error));
    addEventListener("themechange", paint);
    return () => {
      gone = true;
      removeEventListener("themechange", paint);
      wave?.destroy();
    };
  }, [sound]);
  return html`<div class="player">
    <${PlayButton} sound=${sound} name=${name} />
    <div class="wave" ref=${box} role="img" aria-label=${t("wave", { name, seconds: number(seconds) })}></div>
    <span class="numeric muted">${clock(seconds)}</span>${children}
  </div>`;
}

export const Time = ({ sound, start, end, children }) => html`<button type="button" class="time numeric" title=${t("from", { time: clock(start) })}
  onClick=${() => sound.play(start, end).catch(failed)}>${children ?? `${clock(start)}–${clock(end)}`}</button>`;

// Words of a transcript: each plays when it is clicked, and is lit while it is heard.
export function Words({ sound, words, language }) {
  const { time, running } = usePlaying(sound);
  const spaced = !/^(ja|zh|th|lo|km|my)/.test(language ?? "");
  return html`<p class="words" lang=${language ?? undefined}>${words.map((word) => html`<button type="button" key=${word.start}
    class=${running && time >= word.start && time < word.end ? "word lit" : "word"} title=${`${clock(word.start)}–${clock(word.end)}`}
    onClick=${() => sound.play(Math.max(0, word.start - 0.05), word.end + 0.08).catch(failed)}>${word.word}</button>${spaced ? " " : ""}`)}</p>`;
}
