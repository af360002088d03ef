// Health: what is wrong and what to do, what waits, how long things take, what runs where, what leaves the house.

import { api } from "../api.js";
import { language, number, texts, timeOf } from "../i18n.js";
import { live } from "../live.js";
import { Badge, Button, Card, copy, failed, Failure, html, Loading, Notice, Page, toast, useEffect, useFetched, useLive, useMessages, useState } from "../ui.js";

const t = texts({
  en: {
    title: "Health", lead: "How Kikimimi fares, every two seconds", copy: "Copy as JSON", copied: "Copied", again: "Check again", well: "All is well.", wellAbout: "Nothing that Kikimimi knows of is wrong.",
    wrong: ({ n }) => (n === 1 ? "One thing needs attention" : `${n} things need attention`), remedy: "What to do", checks: "Checks", checking: "Checking…", checkedAt: "Checked at {time}, in {seconds} s",
    works: "works", fails: "does not work", privacy: "What leaves this machine", stays: "Nothing leaves this machine.", staysAbout: "No other machine is spoken to, and none can come.",
    words: "What was said goes along (privacy.transcripts is on).", noWords: "What was said does not go along (privacy.transcripts is off).",
    to: "Where", sent: "Sent", reach_machine: "this machine", reach_network: "your network", reach_internet: "the internet", notCounted: "not counted",
    messages: ({ n }) => (n === "1" ? "1 message" : `${n} messages`), since: "since the start",
    mqtt: "MQTT broker: events and states", webhook: "Webhook of a rule", remote: "Server of models: speech and questions, with their sound", database: "Database: every event", satellite: "Satellite: it sends sound, and is sent what is said aloud",
    stream: "Stream: it sends sound, and is only asked for it", models: "Model files, fetched", page: "This page: whoever knows the password", wyoming: "Wyoming: voice assistants of your network", broker: "Own MQTT broker: programs of your network",
    latencies: "How long things take", stage: "Stage", half: "usual (p50)", most: "slow (p95)", latenciesAbout: "Of the latest 200 of each. A stage that did not happen yet is not listed.",
    sound: "Sound, from its last sample until told", speech: "Speech, from its last sample until told", gate: "Gate, voice activity and wake words, per second of audio", tagger: "Tagger, one window",
    recogniser: "Recogniser, one utterance", history: "Event written to disk", loop: "The clock of the daemon is late by", sendMqtt: "MQTT, until the broker has it", sendWebhook: "Webhook, until it answers",
    queues: "What waits", waiting: "Waiting", limit: "Room for", dropped: "Lost", utterances: "Speech to recognise", llm_sounds: "Language model: sounds", llm_speech: "Language model: speech", llm_questions: "Language model: questions",
    q_mqtt: "Messages for the broker", mqtt_in_flight: "Sent, not acknowledged yet", q_history: "Events for the disk", clips: "Clips to write", say: "Texts to say", q_webhook: "Webhooks",
    modelsTitle: "What computes where", role_sounds: "Sounds", role_speech: "Speech", role_understanding: "Understanding", role_voice: "Voice",
    small: "small enough: a window takes about a millisecond", configured: "as the configuration says", gpu_found: "torch found a GPU", no_gpu: "torch found no GPU", process: "a program of its own, started when something is said",
    loading: "loading", ready: "ready", unwell: "out of memory, or out of reach, for now", failed: "failed", stopped: "stopped", idle: "when needed",
    machine: "This machine", cpu: "Processor", cpuNow: "{n} % of one core, {cores} there", memory: "Memory", memoryNow: "{n} MB of {free} GB free", uptime: "Running for", version: "Version", disk: "Disk", diskNow: "{free} GB free", gpus: "GPU", noGpu: "none that is used",
    d_state: "State and history", d_clips: "Clips", d_models: "Models", unknown: "not known", rooms: "Rooms", room: "Room", lost: "Lost audio", failures: "Source broke", errors: "Model errors", threads: "{n} threads, {files} files open",
    "c_broker: name": "Broker: name", "c_broker: tcp": "Broker: connection", "c_broker: tls": "Broker: encryption", "c_broker: login": "Broker: login", "c_broker: subscribe": "Broker: reading", "c_broker: publish": "Broker: writing", c_broker: "Broker",
    "c_state folder": "State folder", c_history: "History", c_clock: "Clock", "c_sound devices": "Sound devices", c_secrets: "Secrets", c_models: "Model files", c_room: "Room", c_lost: "Lost audio", c_mqtt: "Broker", c_clips: "Clips", c_understanding: "Language model",
  },
  ja: {
    title: "状態", lead: "Kikimimi の調子（2 秒ごとに更新）", copy: "JSON でコピー", copied: "コピーしました", again: "もう一度調べる", well: "問題ありません。", wellAbout: "把握しているかぎり異常はありません。",
    wrong: ({ n }) => `対応が必要な項目が ${n} 件あります`, remedy: "対処", checks: "点検", checking: "調べています…", checkedAt: "{time} に点検（{seconds} 秒）",
    works: "正常", fails: "異常", privacy: "この機器の外に出るもの", stays: "この機器の外には何も出ません。", staysAbout: "ほかの機器とは通信せず、外からも接続できません。",
    words: "話した内容も送られます（privacy.transcripts がオン）。", noWords: "話した内容は送られません（privacy.transcripts がオフ）。",
    to: "相手", sent: "送った量", reach_machine: "この機器", reach_network: "家のネットワーク", reach_internet: "インターネット", notCounted: "集計なし",
    messages: ({ n }) => `${n} 件`, since: "起動してから",
    mqtt: "MQTT ブローカー（できごとと状態）", webhook: "ルールの Webhook", remote: "モデルのサーバー（発話と質問を音ごと送信）", database: "データベース（すべてのできごと）", satellite: "サテライト（音を受け取り、読み上げを送る）",
    stream: "ストリーム（音を受け取るだけ）", models: "モデルファイルの取得", page: "この画面（パスワードを知る人）", wyoming: "Wyoming（家のネットワークの音声アシスタント）", broker: "内蔵 MQTT ブローカー（家のネットワークのプログラム）",
    latencies: "処理にかかる時間", stage: "段階", half: "ふだん (p50)", most: "遅いとき (p95)", latenciesAbout: "それぞれ直近 200 回分。まだ起きていない段階は表示しません。",
    sound: "音：最後のサンプルから通知まで", speech: "話し声：最後のサンプルから通知まで", gate: "ゲート・音声検出・ウェイクワード（音 1 秒あたり）", tagger: "音の判定（1 区間）",
    recogniser: "文字起こし（1 発話）", history: "できごとのディスク書き込み", loop: "デーモンの時計の遅れ", sendMqtt: "MQTT：ブローカーが受け取るまで", sendWebhook: "Webhook：応答まで",
    queues: "待ち行列", waiting: "待ち", limit: "上限", dropped: "失われた数", utterances: "文字起こし待ちの発話", llm_sounds: "言語モデル：音", llm_speech: "言語モデル：話し声", llm_questions: "言語モデル：質問",
    q_mqtt: "ブローカーへのメッセージ", mqtt_in_flight: "送信済み・受領確認待ち", q_history: "ディスクへのできごと", clips: "書き込み待ちのクリップ", say: "読み上げ待ち", q_webhook: "Webhook",
    modelsTitle: "どこで計算しているか", role_sounds: "音", role_speech: "文字起こし", role_understanding: "理解", role_voice: "読み上げ",
    small: "1 区間が約 1 ミリ秒と軽いため", configured: "設定のとおり", gpu_found: "torch が GPU を見つけたため", no_gpu: "torch が GPU を見つけられないため", process: "読み上げのときだけ動く別プログラム",
    loading: "読み込み中", ready: "準備完了", unwell: "一時的なメモリ不足か接続不可", failed: "失敗", stopped: "停止", idle: "必要なとき",
    machine: "この機器", cpu: "CPU", cpuNow: "1 コアの {n} %（全 {cores} コア）", memory: "メモリ", memoryNow: "{n} MB（空き {free} GB）", uptime: "稼働時間", version: "バージョン", disk: "ディスク", diskNow: "空き {free} GB", gpus: "GPU", noGpu: "使っていません",
    d_state: "状態と履歴", d_clips: "クリップ", d_models: "モデル", unknown: "不明", rooms: "部屋", room: "部屋", lost: "失われた音", failures: "音源の中断", errors: "モデルのエラー", threads: "スレッド {n}、開いているファイル {files}",
    "c_broker: name": "ブローカー：名前", "c_broker: tcp": "ブローカー：接続", "c_broker: tls": "ブローカー：暗号化", "c_broker: login": "ブローカー：ログイン", "c_broker: subscribe": "ブローカー：読み取り", "c_broker: publish": "ブローカー：書き込み", c_broker: "ブローカー",
    "c_state folder": "状態フォルダー", c_history: "履歴", c_clock: "時計", "c_sound devices": "音声デバイス", c_secrets: "秘密の情報", c_models: "モデルファイル", c_room: "部屋", c_lost: "失われた音", c_mqtt: "ブローカー", c_clips: "クリップ", c_understanding: "言語モデル",
  },
});

const STATES = { ready: "good", idle: "", loading: "accent", stopped: "", unwell: "warning", failed: "bad" };
const STAGES = { mqtt: "sendMqtt", webhook: "sendWebhook" };
const QUEUES = { mqtt: "q_mqtt", history: "q_history", webhook: "q_webhook" };
const bytes = (size) => {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte"];
  const step = size ? Math.min(3, Math.floor(Math.log10(size) / 3)) : 0;
  return new Intl.NumberFormat(language, { style: "unit", unit: units[step], unitDisplay: "short", maximumFractionDigits: 1 }).format(size / 1000 ** step);
};
const giga = (size) => number(size / 1e9);
const ms = (value) => (value >= 1000 ? `${number(value / 1000)} s` : `${value >= 10 ? Math.round(value) : number(value)} ms`);

function lasted(seconds) {
  const parts = [["day", Math.floor(seconds / 86400)], ["hour", Math.floor(seconds / 3600) % 24], ["minute", Math.floor(seconds / 60) % 60], ["second", Math.floor(seconds) % 60]];
  const first = Math.max(0, parts.findIndex(([, count]) => count));
  return parts.slice(first, first + 2).filter(([, count], place) => count || !place)
    .map(([unit, count]) => new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "short" }).format(count)).join(" ");
}

// What was found; what is wrong also says what to do about it.
function Finding({ one }) {
  const [found, ...remedies] = one.detail.split(/;? ?remedy: /);
  const name = t(`c_${one.name}`);
  return html`<li class="finding ${one.works ? "good" : "bad"}">
    <span class="mark" aria-hidden="true">${one.works ? "✓" : "!"}</span>
    <div><strong>${name.startsWith("c_") ? one.name : name}</strong><span class="visually-hidden"> ${t(one.works ? "works" : "fails")}</span>
      <p lang="en">${found.replace(/;$/, "")}</p>
      ${remedies.length > 0 && html`<p class="remedy"><b>${t("remedy")}</b> <span lang="en">${remedies.join("; ")}</span></p>`}</div>
  </li>`;
}

function Troubles({ troubles, checks }) {
  const wrong = [...troubles, ...(checks?.checks ?? []).filter((one) => !one.works && !troubles.some((other) => other.detail === one.detail))];
  if (!wrong.length) return html`<${Notice} kind="good" title=${t("well")}>${t("wellAbout")}<//>`;
  return html`<${Card} title=${t("wrong", { n: wrong.length })} class="troubles"><ul class="findings" aria-live="polite">${wrong.map((one) => html`<${Finding} key=${one.detail} one=${one} />`)}</ul><//>`;
}

function Ways({ health }) {
  return html`<${Card} title=${t("privacy")}>
    ${health.stays && html`<${Notice} kind="good" title=${t("stays")}>${t("staysAbout")}<//>`}
    ${!health.stays && html`<p class="muted">${t(health.words ? "words" : "noWords")}</p>`}
    ${health.ways.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label=${t("privacy")}><table><thead><tr><th>${t("to")}</th><th></th><th>${t("sent")} (${t("since")})</th></tr></thead><tbody>
      ${health.ways.map((way) => html`<tr key=${way.kind + way.address}><td><code>${way.address}</code><br /><span class="hint">${t(way.kind)}</span></td>
        <td><${Badge} kind=${way.reach === "machine" ? "good" : way.reach === "network" ? "accent" : "warning"}>${t(`reach_${way.reach}`)}<//></td>
        <td class="numeric">${way.messages === null && way.bytes === null ? html`<span class="muted">${t("notCounted")}</span>` : [way.messages !== null && t("messages", { n: number(way.messages) }), way.bytes !== null && bytes(way.bytes)].filter(Boolean).join(", ")}</td></tr>`)}
    </tbody></table></div>`}
  <//>`;
}

function Latencies({ stages }) {
  const longest = Math.max(...stages.map((one) => one.p95_ms), 1);
  const place = (value) => Math.log1p(value) / Math.log1p(longest);
  return html`<${Card} title=${t("latencies")}><div class="scroll" tabindex="0" role="region" aria-label=${t("latencies")}><table><thead><tr><th>${t("stage")}</th><th class="numeric end">${t("half")}</th><th class="numeric end">${t("most")}</th></tr></thead><tbody>
    ${stages.map((one) => html`<tr key=${one.name}><td>${t(STAGES[one.name] ?? one.name)}<span class="span" aria-hidden="true" ref=${(node) => { node?.style.setProperty("--p50", place(one.p50_ms)); node?.style.setProperty("--p95", place(one.p95_ms)); }}></span></td>
      <td class="numeric end">${ms(one.p50_ms)}</td><td class="numeric end">${ms(one.p95_ms)}</td></tr>`)}
  </tbody></table></div><p class="hint">${t("latenciesAbout")}</p><//>`;
}

function Queues({ queues }) {
  return html`<${Card} title=${t("queues")}><div class="scroll" tabindex="0" role="region" aria-label=${t("queues")}><table><thead><tr><th></th><th class="end">${t("waiting")}</th><th class="end">${t("limit")}</th><th class="end">${t("dropped")}</th></tr></thead><tbody>
    ${queues.map((one) => html`<tr key=${one.name}><td>${t(QUEUES[one.name] ?? one.name)}</td><td class="numeric end">${number(one.waiting)}</td><td class="numeric end">${number(one.limit)}</td>
      <td class="numeric end ${one.dropped ? "error" : ""}">${number(one.dropped)}</td></tr>`)}
  </tbody></table></div><//>`;
}

function Models({ models }) {
  return html`<${Card} title=${t("modelsTitle")}><ul class="models">${models.map((one) => html`<li key=${one.role}>
    <div class="row apart"><strong>${t(`role_${one.role}`)}: ${one.name}</strong><${Badge} kind=${STATES[one.state]}>${t(one.state)}<//></div>
    <p class="muted">${one.device} — ${t(one.why)}</p>${one.reason && html`<p class="error" lang="en">${one.reason}</p>`}</li>`)}</ul><//>`;
}

function Machine({ health, checks }) {
  const { figures } = health;
  return html`<${Card} title=${t("machine")}><dl class="facts">
    <dt>${t("cpu")}</dt><dd class="numeric">${t("cpuNow", { n: number(figures.cpu_percent), cores: checks?.cores ?? "–" })}${checks && html`<br /><span class="hint">${checks.processor}</span>`}</dd>
    <dt>${t("memory")}</dt><dd class="numeric">${t("memoryNow", { n: Math.round(figures.rss_mb), free: checks ? giga(checks.memory_free) : "–" })}<br /><span class="hint">${t("threads", { n: figures.threads, files: figures.open_files ?? "–" })}</span></dd>
    ${checks?.disks.map((disk) => html`<dt>${t("disk")}: ${t(`d_${disk.name}`)}</dt><dd class="numeric">${disk.free === null ? t("unknown") : t("diskNow", { free: giga(disk.free) })}<br /><code class="hint">${disk.folder}</code></dd>`)}
    <dt>${t("gpus")}</dt><dd>${checks?.gpus.length ? checks.gpus.join("; ") : t("noGpu")}</dd>
    <dt>${t("uptime")}</dt><dd class="numeric">${lasted(figures.uptime_s)}</dd>
    <dt>${t("version")}</dt><dd>${health.version}${checks && html`<br /><span class="hint">${checks.system}</span>`}</dd>
  </dl><//>`;
}

function Rooms({ rooms }) {
  return html`<${Card} title=${t("rooms")}><div class="scroll" tabindex="0" role="region" aria-label=${t("rooms")}><table><thead><tr><th>${t("room")}</th><th class="end">${t("lost")}</th><th class="end">${t("failures")}</th><th class="end">${t("errors")}</th></tr></thead><tbody>
    ${rooms.map((room) => html`<tr key=${room.id}><td>${room.name}</td><td class="numeric end ${room.lost_seconds >= 1 ? "error" : ""}">${number(room.lost_seconds)} s</td><td class="numeric end">${number(room.source_failures)}</td><td class="numeric end ${room.model_errors ? "error" : ""}">${number(room.model_errors)}</td></tr>`)}
  </tbody></table></div><//>`;
}

function Checks({ checks, error, busy, again }) {
  return html`<${Card} title=${t("checks")} class="wide" actions=${html`<${Button} class="small" busy=${busy} onClick=${again}>${t("again")}<//>`}>
    ${error && html`<${Failure} error=${error} again=${again} />`}
    ${!checks && !error && html`<p class="muted" role="status">${t("checking")}</p>`}
    ${checks && html`<ul class="findings">${checks.checks.map((one) => html`<${Finding} key=${one.name + one.detail} one=${one} />`)}</ul>
      <p class="hint">${t("checkedAt", { time: timeOf(checks.at), seconds: number(checks.seconds) })}</p>`}
  <//>`;
}

export default function Health() {
  const { connected } = useLive();
  const [first, problem, retry] = useFetched((signal) => api.get("health", {}, { signal }), [connected]);
  const [told, tell] = useState(null);
  const [checks, setChecks] = useState(null);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  useEffect(() => live.watch("health"), []);
  useMessages("vitals", (message) => tell(message.health));
  const look = async (asking) => {
    setBusy(true);
    try {
      setChecks(await asking());
      setError(null);
    } catch (wrong) {
      setError(wrong);
    }
    setBusy(false);
  };
  useEffect(() => { look(() => api.get("health/checks", {}, { patience: 70000 })); }, []);
  const again = () => look(() => api.post("health/checks", undefined, { patience: 70000 }));
  const health = told ?? first;
  const copyAll = () => copy(JSON.stringify({ health, checks }, null, 2)).then(() => toast(t("copied")), failed);
  const actions = html`<${Button} disabled=${!health} onClick=${copyAll}>${t("copy")}<//>`;
  return html`<${Page} title=${t("title")} lead=${t("lead")} actions=${actions}>
    ${!health && (problem ? html`<${Failure} error=${problem} again=${retry} />` : html`<${Loading} />`)}
    ${health && html`<${Troubles} troubles=${health.troubles} checks=${checks} />
      <div class="health ${connected ? "" : "stale"}">
        <div class="stack"><${Ways} health=${health} /><${Models} models=${health.models} /><${Queues} queues=${health.queues} /><${Rooms} rooms=${health.rooms} /></div>
        <div class="stack"><${Latencies} stages=${health.stages} /><${Machine} health=${health} checks=${checks} /></div>
        <${Checks} checks=${checks} error=${error} busy=${busy} again=${again} />
      </div>`}
  <//>`;
}
