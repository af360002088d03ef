// One event in words: what, where, when, why, and what people say of it.

import { api } from "../api.js";
import { number, percent, texts, timeOf } from "../i18n.js";
import { Ago, Badge, Button, Confirm, failed, html, useMemo, useState } from "../ui.js";
import { modelNames, soundName } from "../words.js";
import { Player, Transcript } from "./player.js";

const t = texts({
  en: {
    heard: "{sound} heard in {room}", said: "Somebody spoke in {room}", test: "Test alert in {room}",
    lasted: "ended after {seconds} s", spoke: "for {seconds} s", now: "Sounds now",
    by: "heard by {models}", needs: "needs {threshold}", moved: "needs {now}, was {before}",
    correct: "Correct", wrong: "Not this", snooze: "Snooze 1 h", undo: "Undo", open: "Open", end: "End snooze", until: "Snoozed until {time}",
    coming: "The recording comes when the sound has ended.", forgotten: "The recording has been deleted.",
    raised: "Threshold in {room}: {before} → {after}, because of {n}.", back: "Threshold in {room}: {before} → {after}.",
    sure: "Thank you. It was sure, so the threshold stays at {after}.", bound: "Noted. The threshold stays at {after}: verdicts move it no further.",
    above: "Noted. The threshold is above that score already: {after}.", no_threshold: "Noted. This was not decided by a threshold, so none is moved.",
    undone: "Taken back.", snoozed: "{sound} in {room} is told to nobody until {time}.",
    danger: "Tell nobody of this alarm?", danger_text: "For an hour nobody is told when {sound} is heard in {room}: no message, no rule, no recording. Your detectors still sound by themselves. If the alarm goes on after that hour, it is told then.",
    danger_yes: "Snooze 1 h",
  },
  ja: {
    heard: "{room}で{sound}が聞こえました", said: "{room}で話し声が聞こえました", test: "{room}のテスト通知",
    lasted: "{seconds}秒で終わりました", spoke: "{seconds}秒間", now: "鳴っています",
    by: "判定：{models}", needs: "しきい値 {threshold}", moved: "しきい値 {now}（以前は {before}）",
    correct: "正しい", wrong: "違う音", snooze: "1時間休止", undo: "取り消す", open: "開く", end: "休止をやめる", until: "{time}まで休止中",
    coming: "録音は音が終わると保存されます。", forgotten: "録音は削除されました。",
    raised: "{room}のしきい値：{before} → {after}（{n}による）", back: "{room}のしきい値：{before} → {after}",
    sure: "ありがとうございます。十分に確かな判定だったので、しきい値は {after} のままです。", bound: "記録しました。しきい値は {after} のままです。評価ではこれ以上動きません。",
    above: "記録しました。しきい値 {after} はすでにこのスコアより上です。", no_threshold: "記録しました。しきい値で判定した音ではないため、動くものはありません。",
    undone: "取り消しました。", snoozed: "{room}の{sound}は{time}まで誰にも知らせません。",
    danger: "この警報を知らせないようにしますか？", danger_text: "1時間、{room}で{sound}が聞こえても誰にも知らせません。メッセージもルールも録音もありません。警報器自体は鳴り続けます。1時間後もまだ鳴っていれば、そのとき知らせます。",
    danger_yes: "1時間休止",
  },
});
const counts = texts({ en: { n: ({ n }) => (n === 1 ? "1 verdict" : `${n} verdicts`) }, ja: { n: "評価{n}件" } });
export const count = (n) => counts("n", { n });

export const HOUR = 3600; // s of a snooze
const LASTING = 1800; // s after which a sound without an end is no longer said to sound

export const shownThreshold = (value) => (value == null ? "–" : value.toFixed(2));
export const clockOf = (seconds) => timeOf(new Date(1000 * seconds).toISOString()).replace(/:\d\d(?=\D*$)/, "");

export function title({ event_type: type, kind, label }, room) {
  if (type === "test") return t("test", { room });
  if (kind === "speech") return t("said", { room });
  return t("heard", { sound: soundName(type, label), room });
}

export const sounding = ({ event }) => event.state === "started" && event.event_type !== "test" && Date.now() / 1000 - new Date(event.start).getTime() / 1000 < LASTING;

const Mark = ({ path }) => html`<svg viewBox="0 0 24 24" class="icon small" aria-hidden="true"><path d=${path} /></svg>`;
const MARKS = { correct: "M5 13l4 4L19 7", wrong: "M6 6l12 12M18 6L6 18", snooze: "M20 14A8 8 0 0 1 10 4a8 8 0 1 0 10 10z" };

function Reason({ entry: { event, threshold } }) {
  const parts = [];
  if (event.kind === "sound" && event.model && event.event_type !== "test") parts.push(t("by", { models: modelNames(event.model).join(" + ") }));
  if (threshold?.in_force != null) {
    const { configured, in_force: now } = threshold;
    parts.push(now === configured ? t("needs", { threshold: shownThreshold(now) }) : t("moved", { now: shownThreshold(now), before: shownThreshold(configured) }));
  }
  return parts.length ? html`<span class="reason">${parts.join(" · ")}</span>` : null;
}

// What came of a verdict, in words.
function outcome(judged, room) {
  const threshold = judged.threshold;
  const after = shownThreshold(threshold?.in_force);
  const n = threshold ? threshold.correct + threshold.wrong : 0;
  if (!judged.opinion) return judged.moved ? t("back", { room, before: shownThreshold(judged.before), after }) : t("undone");
  if (judged.why !== "moved") return t(judged.why, { after });
  return t("raised", { room, before: shownThreshold(judged.before), after, n: count(n) });
}

// `change(entry)` replaces it; `snooze` is the one that it is in, if any.
export function EventCard({ entry, room, snooze, change, large = false }) {
  const { event, opinion, clip } = entry;
  const [busy, setBusy] = useState("");
  const [told, tell] = useState("");
  const [asking, ask] = useState(false);
  const judged = event.kind === "sound" && event.event_type !== "test";

  const run = (name, work) => async () => {
    setBusy(name);
    try {
      await work();
    } catch (error) {
      failed(error);
    }
    setBusy("");
  };
  const judge = (said) => run(said, async () => {
    const path = `events/${event.id}/verdict`;
    const answer = opinion === said ? await api.delete(path) : await api.put(path, { opinion: said });
    change({ ...entry, opinion: answer.opinion, threshold: answer.threshold?.in_force == null ? entry.threshold : answer.threshold });
    tell(outcome(answer, room));
  });
  const undo = run("undo", async () => {
    const answer = await api.delete(`events/${event.id}/verdict`);
    change({ ...entry, opinion: null, threshold: answer.threshold?.in_force == null ? entry.threshold : answer.threshold });
    tell(outcome(answer, room));
  });
  const hush = run("snooze", async () => {
    const begun = await api.put(`events/${event.id}/snooze`, { seconds: HOUR });
    tell(t("snoozed", { sound: soundName(event.event_type, event.label), room, time: clockOf(begun.until) }));
  });
  const wake = run("snooze", () => api.delete(`snoozes/${encodeURIComponent(event.room)}/${encodeURIComponent(entry.subject)}`).then(() => tell("")));

  const now = sounding(entry);
  return html`<article class="event ${entry.life_safety ? "grave" : ""} ${clip.state === "kept" && !large ? "beside" : ""}" aria-labelledby=${`title-${event.id}`} data-id=${event.id}>
    <header>
      <${large ? "h2" : "h3"} id=${`title-${event.id}`}>${large ? title(event, room) : html`<a href=${`#/events/${event.id}`}>${title(event, room)}</a>`}<//>
      <p class="when muted"><${Ago} iso=${event.start} /> · ${timeOf(event.start)}${event.duration != null && html` · ${t(event.kind === "speech" ? "spoke" : "lasted", { seconds: number(event.duration) })}`}</p>
    </header>
    <p class="why row">
      ${now && html`<${Badge} kind=${entry.life_safety ? "bad" : "accent"}><span class="pulse" aria-hidden="true"></span>${t("now")}<//>`}
      ${event.score != null && html`<${Badge} kind=${event.score >= 0.6 ? "good" : "warning"}>${percent(event.score)}<//>`}
      <${Reason} entry=${entry} />
    </p>
    ${event.caption && html`<p class="caption">${event.caption}</p>`}
    ${clip.state === "kept" ? html`<${Player} entry=${entry} large=${large} />` : event.text && html`<${Transcript} event=${event} at=${null} />`}
    ${(clip.state === "coming" || clip.state === "forgotten") && html`<p class="hint">${t(clip.state)}</p>`}
    ${judged && html`<div class="row actions">
      ${["correct", "wrong"].map((said) => html`<${Button} class="small ${opinion === said ? `said ${said}` : ""}" aria-pressed=${opinion === said} busy=${busy === said} onClick=${judge(said)}><${Mark} path=${MARKS[said]} />${t(said)}<//>`)}
      ${snooze
        ? html`<span class="badge warning">${t("until", { time: clockOf(snooze.until) })}</span><${Button} kind="quiet" class="small" busy=${busy === "snooze"} onClick=${wake}>${t("end")}<//>`
        : html`<${Button} class="small" busy=${busy === "snooze"} onClick=${entry.life_safety ? () => ask(true) : hush}><${Mark} path=${MARKS.snooze} />${t("snooze")}<//>`}
      ${opinion && html`<${Button} kind="quiet" class="small" busy=${busy === "undo"} onClick=${undo}>${t("undo")}<//>`}
    </div>`}
    <p class="told" role="status">${told}</p>
    ${entry.life_safety && html`<${Confirm} title=${t("danger")} open=${asking} text=${t("danger_text", { sound: soundName(event.event_type, event.label), room })} yes=${t("danger_yes")} done=${(yes) => { ask(false); if (yes) hush(); }} />`}
  </article>`;
}

// A card that is only drawn anew when something of it has changed: lists are long.
export function SteadyCard({ entry, room, snooze, change }) {
  return useMemo(() => html`<${EventCard} entry=${entry} room=${room} snooze=${snooze} change=${change} />`, [entry, room, snooze?.until]);
}
