// Now: what each room sounds like at this moment.

import { api } from "../api.js";
import { language, texts } from "../i18n.js";
import { live } from "../live.js";
import { soundName } from "../words.js";
import { Ago, Badge, Card, colour, Empty, failed, html, loadPlot, Notice, Page, Select, Switch, useEffect, useLive, useMessages, useRef, useState } from "../ui.js";

const t = texts({
  en: {
    title: "Now", lead: "What is heard at this moment. Nothing is recorded for this page.", house: "Listen in the whole house", listen: "Listen here",
    online: "Listening", offline: "Not heard", disabled: "Switched off", sensitivity: "Sensitivity", "fewer false alarms": "Fewer false alarms",
    balanced: "Balanced", "miss nothing": "Miss nothing", level: "Level", waiting: "Waiting for sound…",
    silent: "Nothing but digital silence comes from the microphone: it is muted, unplugged or broken. Unmute it, or choose another one.",
    stuck: "The microphone gives one value over and over: it hangs. Unplug it and plug it in again, or restart the sound server.",
    clipped: "The microphone is at full scale all the time: turn its gain down.",
    reading: "{level} dB, noise floor {floor} dB", minute: "The last minute",
    minuteAbout: "Level of the last minute: {low} to {high} dB, noise floor {floor} dB", picture: "Spectrogram of the last ten seconds, 60 Hz to 7.8 kHz",
    tagger: "What it sounds like", quiet: "Quiet: nothing stands out from the room's own noise.", needs: "needs {n} %", sounding: "heard now", cooling: "heard just before",
    agreeing: "must last a little longer", explained: "explained by another sound", weaker: "another sound is stronger", witness: "the language model decides",
    speech: "speech, for the recogniser", lineAbout: "The line is what a sound needs here now, with this sensitivity and the room's usual noise taken off.",
    last: "Last heard", nothing: "Nothing heard since the start", none: "No room is configured", noneAbout: "Set up a microphone first.", setUp: "Set up",
    houseOff: "Listening is switched off in the whole house.", row: "{name}: {score} %, {standing}",
  },
  ja: {
    title: "いま", lead: "この瞬間に聞こえているもの。このページのために録音はしません。", house: "家じゅうで聞く", listen: "この部屋で聞く",
    online: "聞いています", offline: "聞こえません", disabled: "オフ", sensitivity: "感度", "fewer false alarms": "誤報を減らす",
    balanced: "標準", "miss nothing": "聞き逃さない", level: "音量", waiting: "音を待っています…",
    silent: "マイクから無音しか届きません。ミュート、抜け、故障が考えられます。ミュートを解除するか、別のマイクを選んでください。",
    stuck: "マイクが同じ値を出し続けています。抜き差しするか、サウンドサーバーを再起動してください。",
    clipped: "マイクの音がつねに振り切れています。入力レベルを下げてください。",
    reading: "{level} dB、ふだんの雑音 {floor} dB", minute: "この 1 分間",
    minuteAbout: "この 1 分間の音量は {low}～{high} dB、ふだんの雑音は {floor} dB", picture: "この 10 秒間のスペクトログラム、60 Hz～7.8 kHz",
    tagger: "何の音に聞こえるか", quiet: "静かです。ふだんの雑音より目立つ音はありません。", needs: "あと {n} % で検知", sounding: "いま鳴っています", cooling: "鳴ったばかり",
    agreeing: "もう少し続けば検知", explained: "別の音で説明がつきます", weaker: "別の音のほうが強い", witness: "言語モデルが判断します",
    speech: "話し声（文字起こし用）", lineAbout: "線は、いまの感度でこの部屋に必要な値です。ふだんの雑音の分は引いてあります。",
    last: "最後に聞いた音", nothing: "起動してからまだ何も聞いていません", none: "部屋がまだ設定されていません", noneAbout: "まずマイクを設定してください。", setUp: "設定へ",
    houseOff: "家じゅうで聞くのをやめています。", row: "{name}：{score} %、{standing}",
  },
});

const KINDS = { online: "good", offline: "bad", disabled: "" };
const SENSITIVITIES = ["fewer false alarms", "balanced", "miss nothing"];
const LOWEST = -90; // dB at the left end of the meter
const BANDS = 64, COLUMNS = 400, RATE = 40; // of the spectrogram: bands, ten seconds, columns a second
const QUIET_AFTER = 1500; // ms without a window of the tagger
const ROWS = 5;

const db = (value) => String(Math.round(value)).replace("-", "−");
const share = (dbfs) => Math.max(0, Math.min(1, (dbfs - LOWEST) / -LOWEST));

// Level against the noise floor. Ten times a second: drawn past Preact, and read out once a second at most.
function Meter({ room }) {
  const meter = useRef(null);
  const [told, tell] = useState(null);
  const at = useRef(0);
  useMessages("sound", (message) => {
    if (message.room !== room) return;
    const { style } = meter.current;
    style.setProperty("--level", share(message.dbfs));
    style.setProperty("--peak", share(message.peak));
    style.setProperty("--floor", share(message.floor));
    meter.current.dataset.open = message.gate;
    meter.current.dataset.heard = "true";
    if (performance.now() - at.current < 500) return;
    at.current = performance.now();
    tell(message);
  });
  const reading = told && t("reading", { level: db(told.dbfs), floor: db(told.floor) });
  return html`<div class="level">
    <div class="meter" ref=${meter} role="meter" aria-label=${t("level")} aria-valuemin=${LOWEST} aria-valuemax="0"
      aria-valuenow=${told ? Math.round(told.dbfs) : LOWEST} aria-valuetext=${reading ?? t("waiting")}><span class="bar"></span><span class="peak"></span><span class="floor"></span></div>
    <p class="numeric hint">${reading ?? t("waiting")}</p>
  </div>`;
}

// The last minute as a line over the noise floor.
function Minute({ room }) {
  const box = useRef(null);
  const data = useRef([[], [], []]);
  const [about, tell] = useState("");
  useEffect(() => {
    let plot = null;
    let wanted = true;
    const show = () => {
      const [times, levels, floors] = data.current;
      const now = Date.now() / 1000;
      while (times.length && times[0] < now - 61) for (const one of data.current) one.shift();
      if (!plot) return;
      plot.batch(() => {
        plot.setData(data.current, false);
        const known = levels.filter((one) => one !== null);
        const low = Math.min(...floors.filter((one) => one !== null), ...known, -60) - 3;
        plot.setScale("y", { min: low, max: Math.max(...known, low + 30) + 3 });
        plot.setScale("x", { min: now - 60, max: now });
      });
    };
    const make = async () => {
      const Plot = await loadPlot();
      if (!wanted) return;
      plot?.destroy();
      plot = new Plot({
        width: box.current.clientWidth, height: 84, padding: [9, 0, 0, 0], legend: { show: false }, cursor: { show: false },
        axes: [{ show: false }, { size: 34, font: "11px system-ui", stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, space: 26, values: (_, values) => values.map(db) }],
        scales: { x: { time: false, auto: false }, y: { auto: false } },
        series: [{}, { stroke: colour("accent"), width: 1.5, points: { show: false } }, { stroke: colour("muted"), width: 1, dash: [4, 4], points: { show: false } }],
      }, data.current, box.current);
      show();
    };
    make().catch(failed);
    const shown = setInterval(show, 500);
    const said = setInterval(() => {
      const [, levels, floors] = data.current;
      const known = levels.filter((one) => one !== null);
      if (known.length) tell(t("minuteAbout", { low: db(Math.min(...known)), high: db(Math.max(...known)), floor: db(floors.at(-1) ?? -70) }));
    }, 5000);
    const resizing = new ResizeObserver(() => plot?.setSize({ width: box.current.clientWidth, height: 84 }));
    resizing.observe(box.current);
    addEventListener("themechange", make);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", make);
    return () => {
      wanted = false;
      clearInterval(shown);
      clearInterval(said);
      resizing.disconnect();
      removeEventListener("themechange", make);
      dark.removeEventListener("change", make);
      plot?.destroy();
    };
  }, []);
  useMessages("sound", (message) => {
    if (message.room !== room) return;
    const [times, levels, floors] = data.current;
    const now = Date.now() / 1000;
    if (times.length && now - times.at(-1) > 1.5) {
      times.push(now - 0.1); // nothing was told meanwhile: no line
      levels.push(null);
      floors.push(null);
    }
    times.push(now);
    levels.push(message.dbfs);
    floors.push(message.floor);
  });
  return html`<div class="minute" role="img" aria-label=${about || t("minute")}><div ref=${box}></div></div>`;
}

// 256 colours from the ground of the card to what stands out: a night sky in the dark, ink in the light.
function palette() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = document.documentElement.dataset.theme;
  const stops = theme === "dark" || (theme === "auto" && dark)
    ? [[20, 22, 30], [38, 42, 96], [110, 70, 190], [235, 120, 140], [255, 225, 150]]
    : [[247, 248, 251], [196, 203, 240], [122, 104, 214], [168, 44, 120], [60, 10, 50]];
  const colours = new Uint32Array(256);
  for (let i = 0; i < 256; i += 1) {
    const place = (i / 255) * (stops.length - 1);
    const [from, to] = [stops[Math.floor(place)], stops[Math.ceil(place)]];
    const [red, green, blue] = from.map((one, channel) => Math.round(one + (place % 1) * (to[channel] - one)));
    colours[i] = (255 << 24) | (blue << 16) | (green << 8) | red;
  }
  return colours;
}

function Spectrogram({ room }) {
  const canvas = useRef(null);
  const state = useRef({ bytes: new Uint8Array(COLUMNS * BANDS), at: null, low: 70, high: 170, colours: null });
  const draw = (columns) => {
    const { bytes, low, high, colours } = state.current;
    const context = canvas.current.getContext("2d", { alpha: false });
    const fresh = context.createImageData(columns, BANDS);
    const pixels = new Uint32Array(fresh.data.buffer);
    const scale = 255 / (high - low);
    for (let column = 0; column < columns; column += 1) {
      const from = (COLUMNS - columns + column) * BANDS;
      for (let band = 0; band < BANDS; band += 1) {
        const value = Math.max(0, Math.min(255, Math.round((bytes[from + band] - low) * scale)));
        pixels[(BANDS - 1 - band) * columns + column] = colours[value];
      }
    }
    if (columns < COLUMNS) context.drawImage(canvas.current, -columns, 0);
    context.putImageData(fresh, COLUMNS - columns, 0);
  };
  useEffect(() => {
    const dye = () => {
      state.current.colours = palette();
      draw(COLUMNS);
    };
    dye();
    addEventListener("themechange", dye);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", dye);
    return () => {
      removeEventListener("themechange", dye);
      dark.removeEventListener("change", dye);
    };
  }, []);
  useMessages("sound", (message) => {
    if (message.room !== room || !message.columns) return;
    const now = state.current;
    const text = atob(message.columns);
    const count = text.length / BANDS;
    const lost = now.at === null ? 0 : Math.round((message.at - now.at) * RATE) - count; // not told, or not heard: left empty
    const added = Math.min(COLUMNS, count + (lost > 0 && lost < COLUMNS ? lost : 0));
    now.at = message.at;
    now.bytes.copyWithin(0, added * BANDS);
    now.bytes.fill(0, (COLUMNS - added) * BANDS);
    const from = (COLUMNS - count) * BANDS;
    let [sum, most] = [0, 0];
    for (let i = 0; i < text.length; i += 1) {
      const value = text.charCodeAt(i);
      now.bytes[from + i] = value;
      sum += value;
      if (value > most) most = value;
    }
    // The room's own noise is dark and what stands out is bright, in a quiet room as in a loud one.
    now.low += 0.02 * (sum / text.length - now.low);
    now.high = Math.max(now.low + 70, most, now.high - 0.5);
    draw(added);
    canvas.current.dataset.columns = Number(canvas.current.dataset.columns ?? 0) + count;
  });
  return html`<div class="spectrogram" role="img" aria-label=${t("picture")}>
    <canvas ref=${canvas} width=${COLUMNS} height=${BANDS}></canvas>
    <span class="pitch high">4k</span><span class="pitch middle">1k</span><span class="pitch low">250 Hz</span>
  </div>`;
}

function Score({ one }) {
  const name = soundName(one.event_type, one.label);
  const score = Math.round(100 * one.score);
  const passed = one.standing === "open" && one.score >= one.threshold; // this very window began it
  const standing = passed ? t("sounding") : one.standing === "open" ? t("needs", { n: language === "ja" ? Math.max(0, Math.round(100 * one.threshold) - score) : Math.round(100 * one.threshold) }) : t(one.standing);
  const line = one.threshold === null ? null : Math.min(1, one.threshold);
  return html`<li class="score ${passed ? "sounding" : one.standing}" aria-label=${t("row", { name, score, standing })}>
    <span class="name" title=${one.label} lang=${one.event_type === "other" ? "en" : undefined}>${name}</span>
    <span class="numeric part">${score} %</span>
    <span class="gauge" aria-hidden="true"><span class="bar" ref=${(node) => node?.style.setProperty("--score", one.score)}></span>
      ${line !== null && html`<span class="line" ref=${(node) => node?.style.setProperty("--line", line)}></span>`}</span>
    <span class="hint standing">${standing}</span>
  </li>`;
}

// The five sounds that come nearest, each with the line that decides.
function Scores({ room }) {
  const [candidates, set] = useState([]);
  const timer = useRef(0);
  useMessages("scores", (message) => {
    if (message.room !== room) return;
    clearTimeout(timer.current);
    timer.current = setTimeout(() => set([]), QUIET_AFTER);
    set(message.candidates.slice(0, ROWS));
  });
  useEffect(() => () => clearTimeout(timer.current), []);
  return html`<div class="scores"><h3>${t("tagger")}</h3>
    ${candidates.length ? html`<ul>${candidates.map((one) => html`<${Score} key=${one.label} one=${one} />`)}</ul>` : html`<p class="muted">${t("quiet")}</p>`}
  </div>`;
}

function Last({ room }) {
  const [event, set] = useState(room.last);
  useMessages("event", (message) => message.event.room === room.id && set(message.event));
  useEffect(() => set((before) => before ?? room.last), [room.last]);
  return html`<p class="last row apart">${event
    ? html`<span><span class="muted">${t("last")}</span> <a href="#/events/${encodeURIComponent(event.id)}">${event.text ?? soundName(event.event_type, event.label)}</a></span>`
    : html`<span class="muted">${t("nothing")}</span>`}
    ${event && html`<span class="hint"><${Ago} iso=${event.end ?? event.start} /></span>`}</p>`;
}

function Room({ room, house }) {
  const heard = room.presence === "online";
  useEffect(() => (heard ? live.watch(room.id) : undefined), [room.id, heard]);
  const put = (what, body) => api.put(`rooms/${room.id}/${what}`, body).catch(failed);
  return html`<${Card} class="room" title=${room.name} data-room=${room.id} actions=${html`<${Badge} kind=${KINDS[room.presence]}>${t(room.presence)}<//>`}>
    ${room.problem !== "none" && html`<${Notice} kind="warning">${t(room.problem)}<//>`}
    ${room.presence === "offline" && room.reason && html`<${Notice} kind="bad"><span lang="en">${room.reason}</span><//>`}
    ${room.presence === "disabled" && !house && room.listening && html`<p class="muted">${t("houseOff")}</p>`}
    ${heard && html`<${Meter} room=${room.id} /><${Spectrogram} room=${room.id} /><${Minute} room=${room.id} /><${Scores} room=${room.id} />`}
    <div class="controls row apart">
      <${Switch} label=${t("listen")} on=${room.listening} change=${(on) => put("listening", { on })} />
      <${Select} label=${t("sensitivity")} value=${room.sensitivity} options=${SENSITIVITIES.map((one) => [one, t(one)])} change=${(sensitivity) => put("sensitivity", { sensitivity })} />
    </div>
    <${Last} room=${room} />
  <//>`;
}

export default function Now() {
  const { rooms, listening, connected } = useLive();
  return html`<${Page} title=${t("title")} lead=${t("lead")} actions=${html`<${Switch} label=${t("house")} on=${listening} change=${(on) => api.put("rooms/listening", { on }).catch(failed)} />`}>
    ${connected && !rooms.length && html`<${Empty} title=${t("none")}><p>${t("noneAbout")}</p><a class="button primary" href="#/setup">${t("setUp")}</a><//>`}
    <div class="grid rooms ${connected ? "" : "stale"}">${rooms.map((room) => html`<${Room} key=${room.id} room=${room} house=${listening} />`)}</div>
    ${rooms.some((room) => room.presence === "online") && html`<p class="hint">${t("lineAbout")}</p>`}
  <//>`;
}
