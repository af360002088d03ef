// Where recordings come from: the browser's microphone, a file, a room.

import { api } from "../api.js";
import { Button, failed, html, Notice, Select, useEffect, useLive, useRef, useState } from "../ui.js";
import { available, record } from "./microphone.js";
import { clock } from "./player.js";
import { t } from "./texts.js";

const LENGTHS = [5, 10, 20, 30]; // seconds of a room

export function microphoneProblem(error) {
  if (error.name === "NotAllowedError" || error.name === "SecurityError") return t("denied");
  if (error.name === "NotFoundError" || error.name === "OverconstrainedError") return t("no_device");
  return t("microphone_failed", { reason: error.message });
}

export const Insecure = () => html`<${Notice} kind="warning">${t("insecure")}<//>`;

// `done(blob)` gets what was recorded.
export function useMicrophone(done) {
  const [state, set] = useState({ recording: false, level: 0, seconds: 0 });
  const recorder = useRef(null);
  const latest = useRef(done);
  latest.current = done;
  const end = (keep) => {
    const current = recorder.current;
    recorder.current = null;
    set({ recording: false, level: 0, seconds: 0 });
    if (!current) return;
    if (keep) latest.current(current.stop());
    else current.cancel();
  };
  const start = async () => {
    if (recorder.current) return;
    set({ recording: true, level: 0, seconds: 0 });
    try {
      recorder.current = await record((level, seconds) => recorder.current && set({ recording: true, level, seconds }), () => end(true));
    } catch (error) {
      set({ recording: false, level: 0, seconds: 0 });
      failed(new Error(microphoneProblem(error)));
    }
  };
  useEffect(() => () => recorder.current?.cancel(), []);
  return { ...state, start, stop: () => end(true), cancel: () => end(false) };
}

export const Level = ({ level }) => html`<span class="level" role="img" aria-label=${t("level")}><span ref=${(bar) => { if (bar) bar.style.width = `${Math.max(2, 100 + (20 * Math.log10(level + 1e-4)) * (100 / 60))}%`; }}></span></span>`;

// Puts the focus on the first button of what takes the place of another that had it.
export function useHandedFocus(state) {
  const box = useRef(null);
  const before = useRef(state);
  useEffect(() => {
    const lost = document.activeElement === document.body || box.current?.contains(document.activeElement);
    if (before.current !== state && lost) box.current?.querySelector("button:not(:disabled)")?.focus();
    before.current = state;
  }, [state]);
  return box;
}

export function MicrophoneButton({ done, busy }) {
  const microphone = useMicrophone(done);
  const box = useHandedFocus(microphone.recording);
  if (!available()) return null;
  return html`<span ref=${box} class="source">${microphone.recording
    ? html`<span class="recording" onKeyDown=${(event) => event.key === "Escape" && microphone.cancel()}>
        <span class="dot" aria-hidden="true"></span><span role="timer" class="numeric">${t("recording", { time: clock(microphone.seconds) })}</span>
        <${Level} level=${microphone.level} />
        <${Button} kind="primary" onClick=${microphone.stop}>${t("stop")}<//>
        <${Button} kind="quiet" onClick=${microphone.cancel}>${t("cancel")}<//>
      </span>`
    : html`<${Button} class="small" busy=${busy} onClick=${microphone.start}><${Icon} name="microphone" />${t("record")}<//>`}</span>`;
}

export function UploadButton({ done, busy }) {
  const input = useRef(null);
  return html`<${Button} class="small" busy=${busy} onClick=${() => input.current.click()}><${Icon} name="upload" />${t("upload")}<//>
    <input ref=${input} class="visually-hidden" tabindex="-1" type="file" accept="audio/*,video/*,.flac,.opus" aria-label=${t("upload")} onChange=${(event) => {
      const [file] = event.target.files;
      event.target.value = "";
      if (file) done(file);
    }} />`;
}

export function useRoom() {
  const { rooms } = useLive();
  const heard = rooms.filter((room) => room.presence === "online");
  const [chosen, choose] = useState(null);
  return { heard, room: heard.some((room) => room.id === chosen) ? chosen : heard[0]?.id, choose };
}

// Records a room into a chat; `chatOf()` gives the id of the chat (made when there is none yet).
export function RoomForm({ chatOf, done, stop }) {
  const { heard, room, choose } = useRoom();
  const [seconds, setSeconds] = useState(10);
  const [busy, setBusy] = useState(null);
  if (!heard.length) return html`<p class="muted">${t("no_room")}</p>`;
  const take = async (upcoming) => {
    setBusy(upcoming ? "upcoming" : "last");
    try {
      const body = { room, seconds: upcoming ? seconds : 10, upcoming };
      await done(await api.post(`ask/chats/${await chatOf()}/clips/room`, body, { patience: 60000 }));
    } catch (error) {
      failed(error);
    }
    setBusy(null);
  };
  const name = heard.find((one) => one.id === room)?.name;
  return html`<div class="form-row">
    <${Select} label=${t("room")} value=${room} options=${heard.map((one) => [one.id, one.name])} change=${choose} />
    <${Select} label=${t("seconds")} value=${String(seconds)} options=${LENGTHS.map((n) => [String(n), t("seconds_n", { n })])} change=${(value) => setSeconds(Number(value))} />
    ${busy === "upcoming"
      ? html`<div class="recording"><span class="dot" aria-hidden="true"></span><span role="status">${t("listening_to", { room: name })}</span><${Button} kind="primary" onClick=${stop}>${t("stop")}<//></div>`
      : html`<${Button} kind="primary" busy=${busy !== null} onClick=${() => take(true)}>${t("record_room")}<//>
        <${Button} busy=${busy === "last"} disabled=${busy !== null} onClick=${() => take(false)}>${t("last")}<//>`}
  </div>`;
}

const ICONS = {
  microphone: "M12 4a2.5 2.5 0 0 1 2.5 2.5v5a2.5 2.5 0 0 1-5 0v-5A2.5 2.5 0 0 1 12 4zM6.5 11.5a5.5 5.5 0 0 0 11 0M12 17v3.5",
  upload: "M12 16V5M7.5 9.5L12 5l4.5 4.5M5 19h14",
  room: "M4 11l8-6.5 8 6.5M6.5 9.5V19h11V9.5M12 13v3",
  event: "M5 5.5h14v14H5zM5 10h14M9 3.5v4M15 3.5v4",
  send: "M5 12h13M13 6.5l5.5 5.5-5.5 5.5",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  cross: "M7 7l10 10M17 7L7 17",
  plus: "M12 5v14M5 12h14",
};
export const Icon = ({ name }) => html`<svg viewBox="0 0 24 24" class="icon" aria-hidden="true"><path d=${ICONS[name]} /></svg>`;
