// Set up: a guide of five steps for the first time, and afterwards the settings of the same things.

import { api, stream } from "../api.js";
import { dayOf, number, texts, timeOf } from "../i18n.js";
import { live } from "../live.js";
import { soundName } from "../words.js";
import { Badge, Button, Card, failed, Failure, Field, html, Loading, Notice, Page, Select, Switch, toast, useEffect, useFetched, useMessages, useRef, useState } from "../ui.js";

const t = texts({
  en: {
    title: "Set up", lead: "Microphones, sounds, where it is sent, privacy", guide: "Set up step by step", welcome: "Let’s set up your house", step: "Step {n} of 5", back: "Back", next: "Next", skip: "Not now", save: "Save", saving: "Saving…", finish: "Done", saveNext: "Save and go on",
    saved: "Saved. Kikimimi follows it already.", savedLater: "Saved. It is used after a restart.", nothing: "Nothing has changed.", restart: "Changed, but used only after a restart: {keys}.", restartNow: "Restart now", restarting: "Kikimimi starts anew. This takes some seconds…", restartByHand: "Restart Kikimimi to use it.", undo: "Undo", undone: "The former version is back.",
    no_alarm: "Kikimimi is no certified alarm. Keep your smoke and CO detectors.", problem: "The configuration file has a mistake; mend it to change anything here.", obstacle: "Nothing can be changed here.", file: "Configuration file", none: "none yet: it is written when you save",
    microphone: "Microphone", microphoneAbout: "Which microphone hears the room?", microphoneNone: "No microphone was found.", lookAgain: "Look again", defaultMic: "Default microphone", elsewhere: "Camera or satellite", elsewhereAbout: "Something in your network that sends sound.", address: "Its address", addressHint: "rtsp://…, http://… or wyoming://…", hears: "hears {room}", room: "Room", newRoom: "Another room", roomName: "Name of the room", roomNameHint: "As you call it: Kitchen, Living room …", clap: "Clap now", clapAbout: "Clap your hands once near the microphone: the bar jumps.", clapped: "Heard you clap!", level: "Level", reading: "{level} dB, noise {floor} dB", opening: "Opening the microphone…", fixedRooms: "The rooms were given on the command line; what is set here is used without --source.", listensTo: "Now: {source}", notHeard: "not heard: {reason}", online: "listening", check: "Check the level",
    sounds: "What to hear", soundsAbout: "Switch off what nobody needs to know. Speech is recognised by itself.", alert: "alert", told: "{n} of {all} kinds of sound are told", alerts: "Alerts", others: "Other sounds", allOn: "Tell all", smokeOff: "Nobody will be told of {names}.",
    broker: "Where to send", brokerAbout: "Home Assistant and other programs hear of events over MQTT.", page: "Nowhere: only this page", pageAbout: "Nothing leaves this machine. You can change that later.", own: "My MQTT broker", ownAbout: "For example the Mosquitto add-on of Home Assistant. Rooms and sounds appear there by themselves.", embedded: "Kikimimi’s own broker", embeddedAbout: "For devices of your network that bring no broker. They log in with this name and password.",
    found: "Found in your network", looking: "Looking for brokers…", foundNone: "No broker was found by itself; type its address.", useIt: "Use {name}", supervisor: "by Home Assistant", host: "Host", port: "Port", user: "User name", password: "Password", keep: "Leave empty to keep the one that is set", tls: "Encrypted (TLS)", test: "Test the connection", testing: "Testing…", works: "The broker works.", fails: "It fails at: {step}", fixedBroker: "The broker was given on the command line; what is set here is used without --mqtt.", connected: "connected", notConnected: "not connected", testLater: "It can be tested after the restart.",
    s_name: "Name is known (DNS)", s_tcp: "Can be reached (TCP)", s_tls: "Encryption (TLS)", s_login: "Login", s_subscribe: "May read (subscribe)", s_publish: "May write (publish)",
    privacy: "Privacy", privacyAbout: "Audio stays in memory and never leaves this machine unless you say so here.", transcripts: "Send what was said", transcriptsAbout: "Words go to MQTT, to rules and into the history. Off: only that somebody spoke.", clips: "Keep recordings of alerts", clipsAbout: "A few seconds around each alert, on this machine’s disk, for 30 days.", drop: "But none in which somebody speaks", dropAbout: "Such recordings are thrown away.",
    testAlert: "Test alert", testAlertAbout: "An alert of the type “test” goes all the way: rules, broker and back.", send: "Send a test alert", sending: "On its way…", arrived: "It arrived, {seconds} s later.", notArrived: "It did not arrive.", via: "Seen on {detail}", done: "Your house is listening.", toNow: "See what is heard now",
  },
  ja: {
    title: "設定", lead: "マイク、音の種類、送り先、プライバシー", guide: "順番に設定する", welcome: "家の設定をはじめましょう", step: "5 つのうち {n} 番目", back: "戻る", next: "次へ", skip: "あとで", save: "保存", saving: "保存しています…", finish: "完了", saveNext: "保存して次へ",
    saved: "保存しました。もう有効です。", savedLater: "保存しました。再起動のあとに有効になります。", nothing: "変更はありません。", restart: "変更は再起動のあとに有効になります：{keys}", restartNow: "いま再起動", restarting: "Kikimimi を再起動しています。数秒かかります…", restartByHand: "Kikimimi を再起動してください。", undo: "元に戻す", undone: "前の版に戻しました。",
    no_alarm: "Kikimimi は認証を受けた警報器ではありません。煙・CO 警報器はそのままお使いください。", problem: "設定ファイルに誤りがあります。直すとここで変更できます。", obstacle: "ここでは変更できません。", file: "設定ファイル", none: "まだありません（保存すると作られます）",
    microphone: "マイク", microphoneAbout: "どのマイクで部屋の音を聞きますか？", microphoneNone: "マイクが見つかりません。", lookAgain: "もう一度さがす", defaultMic: "標準のマイク", elsewhere: "カメラ・サテライト", elsewhereAbout: "ネットワーク上の、音を送る機器です。", address: "アドレス", addressHint: "rtsp://…、http://…、wyoming://… など", hears: "{room}で使用中", room: "部屋", newRoom: "別の部屋", roomName: "部屋の名前", roomNameHint: "ふだんの呼び名（台所、居間など）", clap: "手をたたいてください", clapAbout: "マイクの近くで一度手をたたくと、バーが大きく動きます。", clapped: "手の音が聞こえました！", level: "音量", reading: "{level} dB、雑音 {floor} dB", opening: "マイクを開いています…", fixedRooms: "部屋はコマンドラインで指定されています。ここでの設定は --source なしのときに使われます。", listensTo: "現在：{source}", notHeard: "聞こえません：{reason}", online: "聞いています", check: "音量を確かめる",
    sounds: "聞く音", soundsAbout: "知らせなくてよい音はオフにしてください。話し声は別に文字起こしされます。", alert: "警報", told: "{all} 種類のうち {n} 種類を知らせます", alerts: "警報", others: "そのほかの音", allOn: "すべて知らせる", smokeOff: "{names}は知らせなくなります。",
    broker: "送り先", brokerAbout: "Home Assistant などには MQTT で知らせます。", page: "送らない（この画面だけ）", pageAbout: "この機器の外には何も出ません。あとで変更できます。", own: "自分の MQTT ブローカー", ownAbout: "Home Assistant の Mosquitto アドオンなど。部屋と音が自動で表示されます。", embedded: "Kikimimi 内蔵のブローカー", embeddedAbout: "ブローカーのないネットワークの機器向け。次の名前とパスワードでログインします。",
    found: "ネットワークで見つかったもの", looking: "ブローカーをさがしています…", foundNone: "自動では見つかりませんでした。アドレスを入力してください。", useIt: "{name} を使う", supervisor: "Home Assistant から", host: "ホスト", port: "ポート", user: "ユーザー名", password: "パスワード", keep: "空欄なら設定済みのものを使います", tls: "暗号化（TLS）", test: "接続を試す", testing: "試しています…", works: "ブローカーは正常です。", fails: "「{step}」で失敗しました", fixedBroker: "ブローカーはコマンドラインで指定されています。ここでの設定は --mqtt なしのときに使われます。", connected: "接続中", notConnected: "未接続", testLater: "再起動のあとに試せます。",
    s_name: "名前の解決（DNS）", s_tcp: "到達（TCP）", s_tls: "暗号化（TLS）", s_login: "ログイン", s_subscribe: "受信（subscribe）", s_publish: "送信（publish）",
    privacy: "プライバシー", privacyAbout: "音声はメモリの中だけにあり、ここで許可しないかぎりこの機器の外に出ません。", transcripts: "話した内容を送る", transcriptsAbout: "言葉が MQTT・ルール・履歴に渡ります。オフのときは、誰かが話したことだけを知らせます。", clips: "警報の録音を残す", clipsAbout: "警報の前後数秒を、この機器のディスクに 30 日間残します。", drop: "話し声が入った録音は残さない", dropAbout: "そのような録音は捨てます。",
    testAlert: "テスト通知", testAlertAbout: "種類「test」の警報を、ルールとブローカーまで実際に流します。", send: "テスト通知を送る", sending: "送っています…", arrived: "{seconds} 秒で届きました。", notArrived: "届きませんでした。", via: "確認した場所：{detail}", done: "家の音を聞いています。", toNow: "いまの音を見る",
  },
});

const STEPS = ["microphone", "sounds", "broker", "privacy", "testAlert"];
const PROBES = ["name", "tcp", "tls", "login", "subscribe", "publish"];
const LOWEST = -90; // dB at the left end of the bar
const LIFE = ["smoke_alarm", "co_alarm"];
const NEW = "+"; // in place of a room
const db = (value) => String(Math.round(value)).replace("-", "−");
const share = (dbfs) => Math.max(0, Math.min(1, (dbfs - LOWEST) / -LOWEST));
const ascii = (name) => name.toLowerCase().normalize("NFKD").replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 40);

// --- the microphone -----------------------------------------------------------------------------------------------------

// Listens to a microphone while it is shown; the daemon closes it when this leaves.
function Loudness({ address }) {
  const meter = useRef(null);
  const [told, tell] = useState(null);
  const [clapped, clap] = useState(false);
  const [error, setError] = useState(null);
  useEffect(() => {
    const aborting = new AbortController();
    let at = 0;
    tell(null);
    clap(false);
    setError(null);
    const listen = async () => {
      while (!aborting.signal.aborted) {
        const began = performance.now();
        await stream("POST", "setup/microphones/listen", { body: { address, seconds: 300 }, signal: aborting.signal }, (_, one) => {
          meter.current?.style.setProperty("--level", share(one.dbfs));
          meter.current?.style.setProperty("--peak", share(one.peak));
          meter.current?.style.setProperty("--floor", share(one.floor));
          if (one.clap) clap(true);
          if (performance.now() - at < 400) return;
          at = performance.now();
          tell(one);
        });
        if (performance.now() - began < 2000) await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    };
    listen().catch((problem) => aborting.signal.aborted || setError(problem));
    return () => aborting.abort();
  }, [address]);
  if (error) return html`<${Notice} kind="bad"><span lang="en">${error.message}</span><//>`;
  const reading = told && t("reading", { level: db(told.dbfs), floor: db(told.floor) });
  return html`<div class="loudness">
    <div class="meter" ref=${meter} data-heard=${told ? "true" : undefined} data-open=${told && told.dbfs > told.floor + 6} role="meter" aria-label=${t("level")} aria-valuemin=${LOWEST} aria-valuemax="0" aria-valuenow=${told ? Math.round(told.dbfs) : LOWEST} aria-valuetext=${reading ?? t("opening")}><span class="bar"></span><span class="peak"></span><span class="floor"></span></div>
    <p class="hint numeric">${reading ?? t("opening")}</p>
    <p class=${`clap ${clapped ? "heard" : ""}`} role="status"><span class=${clapped ? "mark" : "pulse"} aria-hidden="true">${clapped && "✓"}</span> <strong>${t(clapped ? "clapped" : "clap")}</strong>${!clapped && html` <span class="muted">${t("clapAbout")}</span>`}</p>
  </div>`;
}

function Microphone({ set_up, choice, change, guided }) {
  const [list, error, again] = useFetched((signal) => api.get("setup/microphones", {}, { signal }));
  const [listening, listen] = useState(guided);
  const rooms = set_up.rooms;
  const chosen = list?.microphones.find((one) => one.address === choice.source);
  const current = rooms.find((room) => room.id === choice.room);
  const asItIs = current?.source === choice.source && current.online; // what the room hears, whatever that is
  const used = asItIs ? current.id : chosen?.room ?? (choice.source === "default" ? list?.microphones.find((one) => one.default)?.room : null);
  const other = current && current.source !== "default" && !list?.microphones.some((one) => one.address === current.source) ? [[current.source, current.source, null]] : [];
  const there = list?.problem ? [] : [["default", t("defaultMic"), list?.microphones.find((one) => one.default)], ...(list?.microphones ?? []).map((one) => [one.address, one.name, one])];
  const options = [...other, ...there];
  const elsewhere = list && choice.source !== "default" && !options.some(([address]) => address === choice.source);
  return html`
    ${set_up.fixed_rooms && html`<${Notice} kind="warning">${t("fixedRooms")}<//>`}
    ${!guided && html`<${Select} label=${t("room")} value=${choice.room} options=${[...rooms.map((room) => [room.id, room.name ?? room.id]), [NEW, t("newRoom")]]}
      change=${(id) => { const room = rooms.find((one) => one.id === id); change({ room: id, name: room?.name ?? "", source: room?.source ?? "default" }); }} />
      ${current && html`<p class="hint">${t("listensTo", { source: current.source })} · ${current.online ? t("online") : t("notHeard", { reason: current.reason ?? "–" })}</p>`}`}
    ${(guided || choice.room === NEW || current) && html`<${Field} label=${t("roomName")} hint=${t("roomNameHint")}>${(id, about) => html`<input id=${id} aria-describedby=${about} maxlength="100" value=${choice.name} onInput=${(event) => change({ name: event.target.value })} />`}<//>`}
    ${error && html`<${Failure} error=${error} again=${again} />`}
    ${!list && !error && html`<${Loading} />`}
    ${list?.problem && html`<${Notice} kind="bad" title=${t("microphoneNone")} action=${html`<${Button} onClick=${again}>${t("lookAgain")}<//>`}><span lang="en">${list.problem}</span><//>`}
    ${list && html`<fieldset class="choices"><legend>${t("microphone")}</legend>
      ${options.map(([address, name, one]) => html`<label class="choice" key=${address}><input type="radio" name="microphone" value=${address} checked=${choice.source === address} onChange=${() => change({ source: address })} />
        <span><b>${name}</b>${address === "default" && one && html` <span class="muted">${one.name}</span>`}${address !== "default" && one?.room && html` <${Badge} kind="accent">${t("hears", { room: rooms.find((room) => room.id === one.room)?.name ?? one.room })}<//>`}</span></label>`)}
      <label class="choice" key="elsewhere"><input type="radio" name="microphone" value="elsewhere" checked=${elsewhere} onChange=${() => change({ source: "" })} />
        <span><b>${t("elsewhere")}</b> <span class="muted">${t("elsewhereAbout")}</span></span></label>
    </fieldset>
    ${elsewhere && html`<${Field} label=${t("address")} hint=${t("addressHint")}>${(id, about) => html`<input id=${id} aria-describedby=${about} maxlength="300" autocapitalize="none" autocomplete="off" spellcheck=${false} value=${choice.source} onInput=${(event) => change({ source: event.target.value.trim() })} />`}<//>`}
    ${(!list.problem || asItIs) && (!elsewhere || asItIs) && (listening ? html`<${Loudness} key=${`${choice.source} ${used}`} address=${used ? `room:${used}` : choice.source} />` : html`<div><${Button} onClick=${() => listen(true)}>${t("check")}<//></div>`)}`}`;
}

// --- what to hear ---------------------------------------------------------------------------------------------------------

function Sounds({ set_up, choice, change }) {
  const off = new Set(choice.ignore);
  const turn = (type) => change({ ignore: off.has(type) ? choice.ignore.filter((one) => one !== type) : [...choice.ignore, type] });
  const quiet = LIFE.filter((type) => off.has(type));
  const cards = (alert) => html`<fieldset class="sound-cards"><legend>${t(alert ? "alerts" : "others")}</legend><div class="cards">${set_up.sounds.filter((one) => one.alert === alert).map(({ event_type: type, title }) => html`<button type="button" class="sound-card" key=${type} aria-pressed=${!off.has(type)} onClick=${() => turn(type)}><span>${soundName(type, title ?? "")}</span><span class="mark" aria-hidden="true">${off.has(type) ? "" : "✓"}</span></button>`)}</div></fieldset>`;
  return html`<p class="muted" role="status">${t("told", { n: number(set_up.sounds.length - set_up.sounds.filter((one) => off.has(one.event_type)).length), all: number(set_up.sounds.length) })}</p>
    ${quiet.length > 0 && html`<${Notice} kind="warning">${t("smokeOff", { names: quiet.map((type) => soundName(type)).join(", ") })}<//>`}
    ${cards(true)}${cards(false)}
    ${off.size > 0 && html`<div><${Button} kind="quiet" class="small" onClick=${() => change({ ignore: [] })}>${t("allOn")}<//></div>`}`;
}

// --- where to send --------------------------------------------------------------------------------------------------------

function Found({ use }) {
  const [list, error, again] = useFetched((signal) => api.get("setup/brokers", {}, { signal }));
  if (error) return html`<${Failure} error=${error} again=${again} />`;
  if (!list) return html`<p class="muted" role="status">${t("looking")}</p>`;
  if (!list.length) return html`<p class="hint">${t("foundNone")}</p>`;
  return html`<div class="field"><b>${t("found")}</b><div class="row">${list.map((one) => html`<${Button} class="small" onClick=${() => use(one)}>${t("useIt", { name: `${one.name} (${one.host}:${one.port})` })}${one.how === "supervisor" && html` <${Badge}>${t("supervisor")}<//>`}<//>`)}</div></div>`;
}

function Steps({ steps, busy }) {
  const failedAt = steps.find((one) => !one.works);
  return html`<div role="status"><ol class="probe">${steps.map((one) => html`<li key=${one.step} class=${one.works ? "good" : "bad"}><span class="mark" aria-hidden="true">${one.works ? "✓" : "✗"}</span><div><b>${t(`s_${one.step}`)}</b> <span class="detail" lang="en">${one.detail}</span></div></li>`)}
    ${busy && html`<li class="busy"><span class="mark" aria-hidden="true">…</span><span class="muted">${t("testing")}</span></li>`}
    ${!busy && failedAt && html`<li class="verdict error"><b>${t("fails", { step: t(`s_${failedAt.step}`) })}</b></li>`}
    ${!busy && steps.length > 0 && !failedAt && html`<li class="verdict"><b>${t("works")}</b></li>`}</ol></div>`;
}

const asked = (broker) => ({ kind: broker.kind, host: broker.host.trim(), port: Number(broker.port) || 1883, username: broker.username, password: broker.password === "" ? null : broker.password, tls: broker.tls, supervisor: broker.supervisor });

function Broker({ set_up, choice, change }) {
  const { broker } = choice;
  const [steps, setSteps] = useState([]);
  const [busy, setBusy] = useState(false);
  const aborting = useRef(null);
  const set = (values) => { aborting.current?.abort(); setSteps([]); change({ broker: { ...broker, ...values } }); };
  useEffect(() => () => aborting.current?.abort(), []);
  const test = async () => {
    aborting.current?.abort();
    const mine = aborting.current = new AbortController();
    const found = [];
    setSteps([]);
    setBusy(true);
    try {
      await stream("POST", "setup/broker/test", { body: asked(broker), signal: mine.signal }, (_, one) => { found.push(one); setSteps([...found]); });
    } catch (error) {
      if (!mine.signal.aborted) failed(error);
    }
    if (aborting.current === mine) setBusy(false);
  };
  const kept = set_up.broker.password && set_up.broker.kind === broker.kind && !broker.supervisor;
  const text = (key, label, more = {}, hint) => html`<${Field} label=${label} hint=${hint}>${(id, about) => html`<input id=${id} aria-describedby=${about} value=${broker[key]} onInput=${(event) => set({ [key]: event.target.value, supervisor: false })} autocapitalize="off" spellcheck="false" ...${more} />`}<//>`;
  const login = html`<div class="pair">${text("username", t("user"), { autocomplete: "off", maxlength: 500 })}${text("password", t("password"), { type: "password", autocomplete: "new-password", maxlength: 1000 }, kept ? t("keep") : undefined)}</div>`;
  return html`
    ${set_up.broker.fixed && html`<${Notice} kind="warning">${t("fixedBroker")}<//>`}
    <fieldset class="choices"><legend class="visually-hidden">${t("broker")}</legend>
      ${["page", "own", "embedded"].map((kind) => html`<label class="choice" key=${kind}><input type="radio" name="broker" value=${kind} aria-label=${t(kind)} checked=${broker.kind === kind} onChange=${() => set({ kind, port: kind === set_up.broker.kind ? set_up.broker.port : 1883 })} />
        <span><b>${t(kind)}</b>${set_up.broker.kind === kind && html` <${Badge} kind=${set_up.broker.connected ? "good" : "bad"}>${t(set_up.broker.connected ? "connected" : "notConnected")}<//>`}<br /><span class="muted">${t(`${kind}About`)}</span></span></label>`)}
    </fieldset>
    ${broker.kind === "own" && html`<div class="stack inset">
      <${Found} use=${(one) => set({ host: one.host, port: one.port, supervisor: one.how === "supervisor", ...(one.how === "supervisor" ? { username: "", password: "" } : {}) })} />
      <div class="pair wide">${text("host", t("host"), { maxlength: 253, placeholder: "homeassistant.local" })}${text("port", t("port"), { type: "number", min: 1, max: 65535 })}</div>
      ${!broker.supervisor && login}
      <${Switch} label=${t("tls")} on=${broker.tls} change=${(tls) => set({ tls, port: Number(broker.port) === (tls ? 1883 : 8883) ? (tls ? 8883 : 1883) : broker.port })} />
      <div><${Button} busy=${busy} disabled=${!broker.host && !broker.supervisor} onClick=${test}>${t("test")}<//></div>
      ${(busy || steps.length > 0) && html`<${Steps} steps=${steps} busy=${busy} />`}
    </div>`}
    ${broker.kind === "embedded" && html`<div class="stack inset">${login}<p class="hint">${t("testLater")}</p></div>`}`;
}

// --- privacy, and the test ------------------------------------------------------------------------------------------------

function Privacy({ choice, change }) {
  const { privacy } = choice;
  const turn = (key) => (on) => change({ privacy: { ...privacy, [key]: on } });
  const line = (key, name, disabled = false) => html`<div class=${`setting ${key === "drop_speech" ? "below" : ""}`}><${Switch} label=${t(name)} on=${privacy[key] && !disabled} disabled=${disabled} change=${turn(key)} /><p class="muted">${t(`${name}About`)}</p></div>`;
  return html`${line("transcripts", "transcripts")}${line("clips", "clips")}${line("drop_speech", "drop", !privacy.clips)}`;
}

function TestAlert({ set_up }) {
  const [room, setRoom] = useState(set_up.rooms[0]?.id ?? "");
  const [state, set] = useState({ busy: false, result: null });
  const send = async () => {
    set({ busy: true, result: null });
    try {
      set({ busy: false, result: await api.post("setup/test", { room }) });
    } catch (error) {
      failed(error);
      set({ busy: false, result: null });
    }
  };
  return html`${set_up.rooms.length > 1 && html`<${Select} label=${t("room")} value=${room} options=${set_up.rooms.map((one) => [one.id, one.name ?? one.id])} change=${setRoom} />`}
    <div><${Button} kind="primary" busy=${state.busy} disabled=${!room} onClick=${send}>${t("send")}<//></div>
    <div role="status">${state.busy && html`<p class="muted">${t("sending")}</p>`}
      ${state.result?.arrived && html`<${Notice} kind="good" title=${`✓ ${t("arrived", { seconds: state.result.seconds })}`}><span class="muted">${t("via", { detail: state.result.detail })}</span><//>`}
      ${state.result && !state.result.arrived && html`<${Notice} kind="bad" title=${t("notArrived")}><span lang="en">${state.result.detail}</span><//>`}</div>`;
}

// --- saving ---------------------------------------------------------------------------------------------------------------

const choiceOf = (set_up, id) => {
  const room = set_up.rooms.find((one) => one.id === id) ?? set_up.rooms[0];
  const { kind, host, port, username, tls } = set_up.broker;
  return {
    room: room?.id ?? "home", name: room?.name ?? "", source: room?.source ?? "default", ignore: set_up.sounds.filter((one) => !one.told).map((one) => one.event_type),
    broker: { kind, host: kind === "own" ? host : "", port: kind === "page" ? 1883 : port, username: username ?? "", password: "", tls, supervisor: false }, privacy: set_up.privacy,
  };
};

// What is to be saved: what was chosen otherwise than it is. `whole`: the microphone too, so that there is a file.
function wantedOf(set_up, choice, whole) {
  const was = choiceOf(set_up);
  const wanted = { digest: set_up.file.digest };
  const room = choice.room === NEW ? ascii(choice.name) || `room-${set_up.rooms.length + 1}` : choice.room;
  const known = set_up.rooms.find((one) => one.id === room);
  if (whole || !known || known.source !== choice.source || (known.name ?? "") !== choice.name) wanted.microphone = { room, ...((known?.source === choice.source && !whole) || !choice.source ? {} : { source: choice.source }), ...(choice.name.trim() ? { name: choice.name.trim() } : {}) };
  if (choice.ignore.join() !== was.ignore.join()) wanted.ignore = choice.ignore;
  if (JSON.stringify(choice.broker) !== JSON.stringify(was.broker)) wanted.broker = asked(choice.broker);
  if (JSON.stringify(choice.privacy) !== JSON.stringify(was.privacy)) wanted.privacy = choice.privacy;
  return wanted;
}

// Has the daemon start anew, and waits until it is there again.
async function startAnew(digest) {
  const back = new Promise((resolve) => {
    let gone = false;
    const end = live.on("connection", (now) => {
      if (!now) gone = true;
      else if (gone) { end(); resolve(); }
    });
    setTimeout(() => { end(); resolve(); }, 90000);
  });
  await api.post("setup/restart", { digest });
  await back;
}

function Banners({ set_up }) {
  return html`
    ${set_up.problem && html`<${Notice} kind="bad" title=${t("problem")}><pre class="told" lang="en">${set_up.problem}</pre><//>`}
    ${set_up.file.obstacle && html`<${Notice} kind="warning" title=${t("obstacle")}><span lang="en">${set_up.file.obstacle}</span><//>`}
    <${Notice} kind="info">${t("no_alarm")}<//>`;
}

// --- the guide ------------------------------------------------------------------------------------------------------------

const PARTS = { microphone: Microphone, sounds: Sounds, broker: Broker, privacy: Privacy };

function Guide({ set_up, again }) {
  const [choice, setChoice] = useState(() => choiceOf(set_up));
  const [at, go] = useState(0);
  const [busy, setBusy] = useState("");
  const [error, setError] = useState(null);
  const change = (values) => setChoice((before) => ({ ...before, ...values }));
  const heading = useRef(null);
  useEffect(() => { api.post("setup/seen").catch(() => {}); }, []);
  useEffect(() => heading.current?.focus({ preventScroll: true }), [at]);
  const step = STEPS[at];
  const save = async () => {
    setBusy("saving");
    setError(null);
    try {
      const done = await api.put("setup", wantedOf(set_up, choice, !set_up.fixed_rooms && !set_up.file.exists));
      if (done.restart.length && set_up.can_restart) {
        setBusy("restarting");
        await startAnew(done.digest);
      }
      await again();
      go(at + 1);
    } catch (problem) {
      setError(problem);
      if (problem.status === 409) again();
    }
    setBusy("");
  };
  const Part = PARTS[step];
  const last = step === "privacy";
  return html`<${Page} title=${t(set_up.file.exists ? "guide" : "welcome")} lead=${t("step", { n: at + 1 })} actions=${step !== "testAlert" && html`<a class="button quiet" href=${set_up.file.exists ? "#/setup" : "#/now"}>${t("skip")}</a>`}>
    <ol class="progress" aria-hidden="true">${STEPS.map((one, place) => html`<li class=${place < at ? "past" : place === at ? "here" : ""}><span>${t(one)}</span></li>`)}</ol>
    ${at === 0 && html`<${Banners} set_up=${set_up} />`}
    <section class="card guide" aria-labelledby="guide-step">
      <h2 id="guide-step" tabindex="-1" ref=${heading}>${t(step)}</h2><p class="muted">${t(`${step}About`)}</p>
      ${Part && html`<${Part} set_up=${set_up} choice=${choice} change=${change} guided=${true} />`}
      ${step === "testAlert" && html`${set_up.file.restart.length > 0 && html`<${Restart} set_up=${set_up} again=${again} />`}<${TestAlert} set_up=${set_up} />`}
      ${busy && html`<${Notice} kind="info">${t(busy)}<//>`}
      ${error && html`<${Notice} kind="bad"><span lang="en">${error.message}</span><//>`}
      <div class="row apart">
        ${at > 0 && step !== "testAlert" ? html`<${Button} kind="quiet" disabled=${Boolean(busy)} onClick=${() => go(at - 1)}>${t("back")}<//>` : html`<span></span>`}
        ${!last && step !== "testAlert" && html`<${Button} kind="primary" onClick=${() => go(at + 1)}>${t("next")}<//>`}
        ${last && html`<${Button} kind="primary" busy=${Boolean(busy)} disabled=${Boolean(set_up.problem || set_up.file.obstacle)} onClick=${save}>${t("saveNext")}<//>`}
        ${step === "testAlert" && html`<a class="button primary" href="#/now">${t("toNow")}</a>`}
      </div>
    </section>
  <//>`;
}

// --- the settings ---------------------------------------------------------------------------------------------------------

function Restart({ set_up, again }) {
  const [busy, setBusy] = useState(false);
  const restart = async () => {
    setBusy(true);
    await startAnew(set_up.file.digest).catch(failed);
    setBusy(false);
    again();
  };
  return html`<${Notice} kind="warning" action=${set_up.can_restart && html`<${Button} busy=${busy} onClick=${restart}>${t("restartNow")}<//>`}>${busy ? t("restarting") : t("restart", { keys: set_up.file.restart.join(", ") })} ${!set_up.can_restart && t("restartByHand")}<//>`;
}

function Settings({ set_up, again }) {
  const [choice, setChoice] = useState(() => choiceOf(set_up));
  const [busy, setBusy] = useState(null);
  const [error, setError] = useState(null);
  const change = (values) => setChoice((before) => ({ ...before, ...values }));
  const locked = Boolean(set_up.problem || set_up.file.obstacle);
  const keys = { microphone: ["microphone"], sounds: ["ignore"], broker: ["broker"], privacy: ["privacy"] };
  // What one card shows, as it is in the file; nobody's other unsaved choices are touched.
  const reset = (part, fresh, id) => {
    const { room, name, source, ignore, broker, privacy } = choiceOf(fresh, id);
    change({ microphone: { room, name, source }, sounds: { ignore }, broker: { broker }, privacy: { privacy } }[part]);
  };
  const save = async (part) => {
    const all = wantedOf(set_up, choice, false);
    const wanted = Object.fromEntries(Object.entries(all).filter(([key]) => key === "digest" || keys[part].includes(key)));
    if (Object.keys(wanted).length === 1) return toast(t("nothing"));
    setBusy(part);
    setError(null);
    try {
      const done = await api.put("setup", wanted);
      const fresh = await again();
      reset(part, fresh, wanted.microphone?.room);
      const version = fresh.file.versions[0]?.id;
      toast(t(done.restart.length ? "savedLater" : "saved"), version && { action: async () => { await api.post("configuration/undo", { version, digest: done.digest }).then(() => toast(t("undone")), failed); reset(part, await again(), choice.room); }, actionText: t("undo") });
    } catch (problem) {
      setError({ part, message: problem.message });
      if (problem.status === 409) again();
    }
    setBusy(null);
  };
  return html`<${Page} title=${t("title")} lead=${t("lead")} actions=${html`<a class="button" href="#/setup/guide">${t("guide")}</a>`}>
    <${Banners} set_up=${set_up} />
    ${set_up.file.restart.length > 0 && html`<${Restart} set_up=${set_up} again=${again} />`}
    <div class="settings">${["microphone", "sounds", "broker", "privacy"].map((part) => { const Part = PARTS[part]; return html`<${Card} key=${part} title=${t(part)} class=${part}><p class="muted">${t(`${part}About`)}</p>
      <${Part} set_up=${set_up} choice=${choice} change=${change} guided=${false} />
      ${error?.part === part && html`<${Notice} kind="bad"><span lang="en">${error.message}</span><//>`}
      <div class="row end"><${Button} kind="primary" busy=${busy === part} disabled=${locked || busy !== null} onClick=${() => save(part)} aria-label=${`${t("save")}: ${t(part)}`}>${t("save")}<//></div><//>`; })}
      <${Card} title=${t("testAlert")}><p class="muted">${t("testAlertAbout")}</p><${TestAlert} set_up=${set_up} /><//>
    </div>
    <p class="hint">${t("file")}: ${set_up.file.exists ? html`<code>${set_up.file.file}</code>` : t("none")}${set_up.file.versions[0] && html` · ${dayOf(set_up.file.versions[0].time)} ${timeOf(set_up.file.versions[0].time)}`}</p>
  <//>`;
}

export default function SetUp({ rest }) {
  const [set_up, set] = useState(null);
  const [error, setError] = useState(null);
  const again = async () => {
    try {
      const fresh = await api.get("setup");
      set(fresh);
      setError(null);
      return fresh;
    } catch (problem) {
      setError(problem);
      throw problem;
    }
  };
  const look = () => again().catch(() => {});
  useEffect(() => { look(); }, []);
  useMessages("room", look);
  useMessages("rooms", look);
  if (!set_up) return html`<${Page} title=${t("title")}>${error ? html`<${Failure} error=${error} again=${look} />` : html`<${Loading} />`}<//>`;
  return rest[0] === "guide" ? html`<${Guide} set_up=${set_up} again=${again} />` : html`<${Settings} set_up=${set_up} again=${again} />`;
}
