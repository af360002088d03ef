// Rules: what they say, what they would have done, why they did or did not fire, and how they are written.

import { api } from "../api.js";
import { dayOf, texts, timeOf } from "../i18n.js";
import { dayName, deed, nameOf, outcome, Sentence, titles } from "../rule_words.js";
import { Badge, Button, Card, Confirm, Empty, failed, Failure, Field, html, Loading, Notice, Page, Select, Switch, toast, useEffect, useFetched, useMessages, useRef, useState } from "../ui.js";

const t = texts({
  en: {
    title: "Rules", lead: "When something is heard, do something.", create: "New rule", edit: "Edit", remove: "Delete", removeAsk: "Delete this rule?", removeAbout: "“{name}” will be taken out of the configuration. You can undo that.",
    tryOne: "Try on the last {n} days", tryAll: "Try all on the last 7 days", trying: "Trying…", would: ({ n }) => (n === 0 ? "Would not have fired" : n === 1 ? "Would have fired once" : `Would have fired ${n} times`), would_all: "What would have happened", inDays: ({ n }) => `in the last ${n} days`,
    tried: ({ n }) => (n === 1 ? "1 event was heard in that time." : `${n} events were heard in that time.`), nothingDone: "Nothing was done: this is only what would have happened.",
    wordless: "{n} times somebody spoke, but words are kept only with transcripts on: rules about speech cannot be tried on those.", more: "There were more events; the oldest were left out.", guesses: "It is assumed that every room was heard all the time.",
    first: "The latest {n}", absent: "nothing was heard", why: "The last evaluations", whyNone: "Nothing was heard yet that this rule is about.", fired: ({ n }) => (n === 0 ? "not fired yet" : n === 1 ? "fired once" : `fired ${n} times`), since: "since the start",
    on: "Active", off: "Off", rule: "Rule {n}", none: "There are no rules yet", noneAbout: "A rule tells your house what to do when a sound or a sentence is heard.", problem: "The configuration file has a mistake. The rules below are those that still run; mend the file to change them here.",
    obstacle: "Rules cannot be changed here.", restart: "Changed, but used only after a restart: {keys}.", saved: "Saved. Kikimimi follows it already.", removed: "The rule is deleted.", undone: "The former version is back.", undo: "Undo", versions: "Earlier versions of the file", bringBack: "Bring back", before: "before: {what}",
    "rule-added": "a rule was added", "rule-changed": "a rule was changed", "rule-removed": "a rule was deleted", "rule-switched": "a rule was switched", setup: "set-up was changed", "undo-done": "an earlier version was brought back",
    newTitle: "New rule", editTitle: "Edit “{name}”", form: "Form", yaml: "YAML", save: "Save rule", cancel: "Cancel", back: "All rules", checking: "Checking…", right: "This rule is right.", mistakes: ({ n }) => (n === 1 ? "One mistake" : `${n} mistakes`), line: "Line {n}", warnings: "It can be saved, but:", text: "The rule as YAML", textAbout: "Secrets are shown as ‹hidden 1›: leave those as they are, or write something new.",
    tooMuch: "This rule has comments or uses more than the form knows, so it is shown as YAML.", reads: "It reads", moved: "The file was loaded again; your text is still here. Save it again if you still want it.", lost: "The rule itself is another one by now: your text will be added as a new one.", guide: "Everything a rule can do is explained in config.example.yaml.",
    name: "Name", nameAbout: "For you and the log", what: "When", sound: "a sound", speech: "a sentence", sounds: "Sounds", anySound: "Any sound", phrase: "Words that are said", phraseAbout: "One of them on each line, in any case; leave empty for anything", rooms: "In", anyRoom: "Every room",
    happens: "What happens", starts: "It starts", ends: "It ends", lasts: "It lasts", times: "It is heard several times", absent_: "It is not heard for", count: "Times", span: "How long", unit: "Unit", s: "seconds", min: "minutes", h: "hours", within: "Within", hours: "Only at certain hours", from: "From", to: "To", days: "Only on", everyDay: "Every day",
    then: "Then", deed: "What to do", action: "Action {n}", publish: "Send an MQTT message", say: "Say something", log: "Write into the log", keep_clip: "Keep the recording", topic: "Topic", payload: "Message", sayText: "What to say", sayRoom: "Where", sameRoom: "The same room", allRooms: "Everywhere", logText: "Line", addAction: "Add another action", removeAction: "Remove this action", templates: "{{ label }}, {{ room_name }} and {{ time }} are filled in.", pause: "Then not again for", noPause: "No pause", pauseOn: "Rest after it fired", more_: "More",
  },
  ja: {
    title: "ルール", lead: "何かが聞こえたら、何かをします。", create: "新しいルール", edit: "編集", remove: "削除", removeAsk: "このルールを削除しますか？", removeAbout: "「{name}」を設定から取りのぞきます。あとで元に戻せます。",
    tryOne: "この {n} 日間で試す", tryAll: "すべてをこの 7 日間で試す", trying: "試しています…", would: ({ n }) => (n === 0 ? "一度も動かなかったはずです" : `${n} 回動いたはずです`), would_all: "起きたはずのこと", inDays: ({ n }) => `この ${n} 日間`,
    tried: ({ n }) => `この間のできごとは ${n} 件です。`, nothingDone: "実際には何も行っていません。",
    wordless: "{n} 回の発話は言葉が残っていません（文字起こしの保存がオフ）。話し言葉のルールはそこでは試せません。", more: "できごとが多いため、古いものは省きました。", guesses: "すべての部屋がずっと聞こえていたと仮定しています。",
    first: "最新の {n} 件", absent: "何も聞こえませんでした", why: "最近の判定", whyNone: "このルールに関わる音はまだ聞こえていません。", fired: ({ n }) => (n === 0 ? "まだ動いていません" : `${n} 回動きました`), since: "起動してから",
    on: "オン", off: "オフ", rule: "ルール {n}", none: "ルールはまだありません", noneAbout: "音や言葉が聞こえたときに家が何をするかを決めます。", problem: "設定ファイルに誤りがあります。下は今も動いているルールです。ファイルを直すと、ここで変更できます。",
    obstacle: "ここではルールを変更できません。", restart: "変更は再起動のあとに有効になります：{keys}", saved: "保存しました。もう有効です。", removed: "ルールを削除しました。", undone: "前の版に戻しました。", undo: "元に戻す", versions: "ファイルの以前の版", bringBack: "この版に戻す", before: "{what} 前の版",
    "rule-added": "ルールを追加する", "rule-changed": "ルールを変更する", "rule-removed": "ルールを削除する", "rule-switched": "ルールを切り替える", setup: "設定を変更する", "undo-done": "以前の版に戻す",
    newTitle: "新しいルール", editTitle: "「{name}」を編集", form: "フォーム", yaml: "YAML", save: "ルールを保存", cancel: "キャンセル", back: "ルール一覧", checking: "確認しています…", right: "このルールは正しく書けています。", mistakes: ({ n }) => `誤りが ${n} 件あります`, line: "{n} 行目", warnings: "保存はできますが、次の点に注意してください：", text: "ルール（YAML）", textAbout: "秘密の値は ‹hidden 1› と表示されます。そのまま残すか、新しく書いてください。",
    tooMuch: "コメントがあるか、フォームでは扱えない内容を含むため、YAML で表示しています。", reads: "このルールの意味", moved: "ファイルを読み込みなおしました。入力した内容は残っています。よければもう一度保存してください。", lost: "このルール自体が変更されたため、入力した内容は新しいルールとして追加されます。", guide: "ルールでできることは config.example.yaml に説明があります。",
    name: "名前", nameAbout: "あなたとログのため", what: "きっかけ", sound: "音", speech: "言葉", sounds: "音の種類", anySound: "どの音でも", phrase: "話される言葉", phraseAbout: "1 行に 1 つ。空欄ならどの言葉でも", rooms: "部屋", anyRoom: "すべての部屋",
    happens: "条件", starts: "聞こえたとき", ends: "やんだとき", lasts: "続いたとき", times: "何度か聞こえたとき", absent_: "聞こえないとき", count: "回数", span: "長さ", unit: "単位", s: "秒", min: "分", h: "時間", within: "この間に", hours: "時間帯を限る", from: "から", to: "まで", days: "曜日", everyDay: "毎日",
    then: "すること", deed: "動作", action: "動作 {n}", publish: "MQTT メッセージを送る", say: "読み上げる", log: "ログに書く", keep_clip: "録音を残す", topic: "トピック", payload: "メッセージ", sayText: "読み上げる文", sayRoom: "場所", sameRoom: "同じ部屋", allRooms: "すべての部屋", logText: "ログの文", addAction: "動作を追加", removeAction: "この動作を取りのぞく", templates: "{{ label }}、{{ room_name }}、{{ time }} は自動で入ります。", pause: "その後、動かない時間", noPause: "休みなし", pauseOn: "動いたあと休む", more_: "その他",
  },
});

const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const UNITS = { s: 1, min: 60, h: 3600 };
const CHECK_AFTER = 300; // ms without typing
const link = (...rest) => `#/${["rules", ...rest].join("/")}`;
const what = (version) => t(version.what === "undo" ? "undo-done" : version.what);

// --- the list ---------------------------------------------------------------------------------------------------------

function Firings({ result, rooms }) {
  return html`<ol class="firings">${result.firings.slice(0, 10).map((one, place) => html`<li key=${place}>
    <span class="numeric">${dayOf(one.time)} ${timeOf(one.time)}</span>
    <span>${one.event_id ? html`<a href=${`#/events/${one.event_id}`}>${nameOf(one.event_type)}, ${rooms[one.room] ?? one.room}</a>` : t("absent")}</span>
    <span class="deeds">${one.deeds.map((each) => html`<span>${deed(each, rooms)}</span>`)}</span></li>`)}</ol>`;
}

function Rehearsal({ result, name, rooms, days }) {
  const total = name === undefined ? Object.values(result.fired).reduce((sum, n) => sum + n, 0) : Object.values(result.fired)[0] ?? 0;
  return html`<div class="rehearsal" role="status">
    <p><strong>${t("would", { n: total })}</strong> <span class="muted">${t("inDays", { n: days })}</span></p>
    ${name === undefined && html`<ul class="counts">${Object.entries(result.fired).map(([rule, n]) => html`<li key=${rule}><span>${rule}</span> <${Badge} kind=${n ? "accent" : ""}>${n} ×<//></li>`)}</ul>`}
    ${result.firings.length > 0 && html`<${Firings} result=${result} rooms=${rooms} />`}
    <p class="hint">${t("tried", { n: result.events })} ${t("nothingDone")}${result.wordless > 0 && ` ${t("wordless", { n: result.wordless })}`}${result.more && ` ${t("more")}`}${result.guesses_absence && ` ${t("guesses")}`}</p>
  </div>`;
}

// A rehearsal: [result, busy, start].
function useRehearsal(wanted) {
  const [state, set] = useState({ result: null, busy: false });
  const start = async () => {
    set({ result: null, busy: true });
    try {
      set({ result: await api.post("rules/rehearsal", wanted(), { patience: 70000 }), busy: false });
    } catch (error) {
      failed(error);
      set({ result: null, busy: false });
    }
  };
  return [state.result, state.busy, start, () => set({ result: null, busy: false })];
}

function Evaluations({ rule, rooms }) {
  return html`<details class="why"><summary>${t("why")}</summary>
    ${rule.evaluations.length === 0 && html`<p class="muted">${t("whyNone")}</p>`}
    <ol>${rule.evaluations.map((one, place) => html`<li key=${place} class=${one.outcome}>
      <span class="numeric">${dayOf(one.time)} ${timeOf(one.time)}</span>
      <span>${one.event_id ? html`<a href=${`#/events/${one.event_id}`}>${nameOf(one.event_type)}, ${rooms[one.room] ?? one.room}</a>` : t("absent")}</span>
      <span>${one.outcome === "fired" ? html`<${Badge} kind="good">${outcome(one, rooms)}<//>` : outcome(one, rooms)}</span></li>`)}</ol></details>`;
}

function RuleCard({ rule, book, changed, locked }) {
  const [result, busy, start] = useRehearsal(() => ({ number: rule.number, days: 7 }));
  const name = rule.named ? rule.name : t("rule", { n: rule.number });
  const turn = (on) => api.put(`rules/${rule.number}/enabled`, { on, digest: book.file.digest }).then(changed, (error) => { failed(error); changed(); });
  return html`<section class="card rule ${rule.enabled ? "" : "resting"}" aria-labelledby=${`rule-${rule.number}`}>
    <header class="card-head"><h2 id=${`rule-${rule.number}`}>${name}</h2>
      <${Switch} label=${`${name}: ${t(rule.enabled ? "on" : "off")}`} hidden=${true} on=${rule.enabled} disabled=${locked} change=${turn} /></header>
    <${Sentence} words=${rule.words} rooms=${book.rooms} />
    <div class="row">
      <span class="hint fired">${t("fired", { n: rule.fired })}</span>
      ${!locked && html`<a class="button small" href=${link(rule.number)} aria-label=${`${t("edit")}: ${name}`}>${t("edit")}</a>`}
      <${Button} class="small" busy=${busy} onClick=${start} aria-label=${`${t("tryOne", { n: 7 })}: ${name}`}>${t("tryOne", { n: 7 })}<//>
    </div>
    ${result && html`<${Rehearsal} result=${result} name=${rule.name} rooms=${book.rooms} days=${7} />`}
    <${Evaluations} rule=${rule} rooms=${book.rooms} />
  </section>`;
}

async function goBack(version, digest, changed) {
  try {
    await api.post("configuration/undo", { version, digest });
    toast(t("undone"));
  } catch (error) {
    failed(error);
  }
  changed();
}

function Versions({ book, changed }) {
  if (!book.file.versions.length) return null;
  return html`<details class="card versions"><summary><h2>${t("versions")}</h2></summary><p class="hint"><code>${book.file.file}</code></p>
    <ul>${book.file.versions.map((one) => html`<li key=${one.id}><span class="numeric">${dayOf(one.time)} ${timeOf(one.time)}</span> <span>${t("before", { what: what(one) })}</span>
      <${Button} class="small" onClick=${() => goBack(one.id, book.file.digest, changed)} aria-label=${`${t("bringBack")}: ${dayOf(one.time)} ${timeOf(one.time)}`}>${t("bringBack")}<//></li>`)}</ul></details>`;
}

function List({ book, changed }) {
  const [result, busy, start] = useRehearsal(() => ({ days: 7 }));
  const locked = Boolean(book.problem || book.file.obstacle);
  const actions = html`${book.rules.length > 0 && html`<${Button} busy=${busy} onClick=${start}>${t("tryAll")}<//>`}${!locked && html`<a class="button primary" href=${link("new")}>${t("create")}</a>`}`;
  return html`<${Page} title=${t("title")} lead=${t("lead")} actions=${actions}>
    ${book.problem && html`<${Notice} kind="bad" title=${t("problem")}><pre class="told" lang="en">${book.problem}</pre><//>`}
    ${book.file.obstacle && html`<${Notice} kind="warning" title=${t("obstacle")}><span lang="en">${book.file.obstacle}</span><//>`}
    ${book.file.restart.length > 0 && html`<${Notice} kind="warning">${t("restart", { keys: book.file.restart.join(", ") })}<//>`}
    ${result && html`<${Card} title=${t("would_all")}><${Rehearsal} result=${result} rooms=${book.rooms} days=${7} /><//>`}
    ${book.rules.length === 0 && html`<${Card}><${Empty} title=${t("none")}><p>${t("noneAbout")}</p>${!locked && html`<a class="button primary" href=${link("new")}>${t("create")}</a>`}<//><//>`}
    <div class="stack">${book.rules.map((rule) => html`<${RuleCard} key=${rule.name} rule=${rule} book=${book} changed=${changed} locked=${locked} />`)}</div>
    <${Versions} book=${book} changed=${changed} />
  <//>`;
}

// --- the form -----------------------------------------------------------------------------------------------------------

const empty = () => ({ name: "", kind: "sound", sounds: ["doorbell"], phrases: "", rooms: [], how: "starts", span: 2, unit: "min", count: 3, from: "22:00", to: "07:00", hours: false, days: [], pause: false, pauseSpan: 10, pauseUnit: "min", actions: [{ kind: "publish", topic: "house/alert", payload: "{{ label }} in {{ room_name }}" }] });

function apart(seconds) {
  const unit = seconds % 3600 === 0 ? "h" : seconds % 60 === 0 ? "min" : "s";
  return [seconds / UNITS[unit], unit];
}

// The form of a rule; null: it has more than the form knows.
export function formOf({ words, text, named, name }) {
  const { when } = words;
  const known = words.do.every((one) => ["publish", "say", "log", "keep_clip"].includes(one.kind));
  const plain = !/(^|\s)#/m.test(text) && !/\b(qos|retain|enabled|language|unconfirmed):/.test(text);
  if (!known || !plain || when.label || when.exactly || when.regex || when.score != null || when.language) return null;
  const form = { ...empty(), name: named ? name : "", kind: when.speech ? "speech" : "sound", sounds: (when.sound ?? []).filter((one) => one !== "any"), phrases: (when.speech ?? []).filter((one) => one !== "any").join("\n"), rooms: when.room ?? [], days: when.days ?? [] };
  const span = when.lasting ?? when.absent ?? when.within;
  if (span) [form.span, form.unit] = apart(span);
  form.how = when.lasting ? "lasts" : when.absent ? "absent_" : when.times ? "times" : when.state === "ended" ? "ends" : "starts";
  form.count = when.times ?? 3;
  if (when.between) [form.from, form.to, form.hours] = [...when.between.split("-"), true];
  if (words.cooldown) [[form.pauseSpan, form.pauseUnit], form.pause] = [apart(words.cooldown), true];
  form.actions = words.do.map((one) => ({ kind: one.kind, topic: one.where ?? "", payload: one.what, text: one.what, room: one.where ?? "" }));
  return form;
}

const bare = /^[A-Za-z_][A-Za-z0-9_ -]*$/;
const reserved = /^(true|false|null|~)$/i;
const quoted = (text) => (bare.test(text) && !reserved.test(text) && text === text.trim() ? text : JSON.stringify(text));
const listed = (items) => (items.length === 1 ? quoted(items[0]) : `[${items.map(quoted).join(", ")}]`);

export function yamlOf(form) {
  const when = [];
  if (form.kind === "speech") {
    const phrases = form.phrases.split("\n").map((line) => line.trim()).filter(Boolean);
    when.push(`speech: ${phrases.length ? listed(phrases) : "any"}`);
  } else {
    when.push(`sound: ${form.sounds.length ? listed(form.sounds) : "any"}`);
  }
  if (form.rooms.length) when.push(`room: ${listed(form.rooms)}`);
  const span = `${form.span} ${form.unit}`;
  if (form.how === "ends") when.push("state: ended");
  if (form.how === "lasts") when.push(`lasting: ${span}`);
  if (form.how === "absent_") when.push(`absent: ${span}`);
  if (form.how === "times") when.push(`times: ${form.count}`, `within: ${span}`);
  if (form.hours) when.push(`between: "${form.from}-${form.to}"`);
  if (form.days.length) when.push(`days: ${listed(form.days)}`);
  const lines = [...(form.name ? [`name: ${quoted(form.name)}`] : []), "when:", ...when.map((line) => `  ${line}`)];
  if (form.pause) lines.push(`cooldown: ${form.pauseSpan} ${form.pauseUnit}`);
  lines.push("do:");
  for (const one of form.actions) {
    if (one.kind === "publish") lines.push("  - publish:", `      topic: ${quoted(one.topic)}`, `      payload: ${JSON.stringify(one.payload)}`);
    if (one.kind === "say") lines.push("  - say:", `      text: ${JSON.stringify(one.text)}`, ...(one.room ? [`      room: ${quoted(one.room)}`] : []));
    if (one.kind === "log") lines.push(`  - log: ${JSON.stringify(one.text)}`);
    if (one.kind === "keep_clip") lines.push("  - keep_clip: true");
  }
  return `${lines.join("\n")}\n`;
}

const Chips = ({ legend, items, chosen, none, change }) => html`<fieldset class="chips"><legend>${legend}</legend><div class="row">
  ${none && html`<button type="button" class="chip" aria-pressed=${chosen.length === 0} onClick=${() => change([])}>${none}</button>`}
  ${items.map(([key, text]) => html`<button type="button" class="chip" key=${key} aria-pressed=${chosen.includes(key)} onClick=${() => change(chosen.includes(key) ? chosen.filter((one) => one !== key) : [...chosen, key])}>${text}</button>`)}
</div></fieldset>`;

const Span = ({ label, span, unit, change }) => html`<div class="pair"><${Field} label=${label}>${(id) => html`<input id=${id} type="number" min="1" max="999" value=${span} onInput=${(event) => change({ span: Math.max(1, Number(event.target.value) || 1), unit })} />`}<//>
  <${Select} label=${t("unit")} value=${unit} options=${Object.keys(UNITS).map((key) => [key, t(key)])} change=${(key) => change({ span, unit: key })} /></div>`;

const Text = ({ label, hint, value, change, ...rest }) => html`<${Field} label=${label} hint=${hint}>${(id, about) => html`<input id=${id} aria-describedby=${about} value=${value} onInput=${(event) => change(event.target.value)} ...${rest} />`}<//>`;

function Action({ one, place, count, rooms, change, remove }) {
  return html`<fieldset class="action"><legend>${count > 1 ? t("action", { n: place + 1 }) : t("then")}</legend>
    <${Select} label=${t("deed")} value=${one.kind} options=${["publish", "say", "log", "keep_clip"].map((kind) => [kind, t(kind)])} change=${(kind) => change({ ...one, kind, text: one.text || one.payload || "", payload: one.payload || one.text || "", topic: one.topic || "house/alert", room: "" })} />
    ${one.kind === "publish" && html`<${Text} label=${t("topic")} value=${one.topic} change=${(topic) => change({ ...one, topic })} /><${Text} label=${t("payload")} hint=${t("templates")} value=${one.payload} change=${(payload) => change({ ...one, payload })} />`}
    ${one.kind === "say" && html`<${Text} label=${t("sayText")} hint=${t("templates")} value=${one.text} change=${(text) => change({ ...one, text })} />
      <${Select} label=${t("sayRoom")} value=${one.room} options=${[["", t("sameRoom")], ["all", t("allRooms")], ...Object.entries(rooms)]} change=${(room) => change({ ...one, room })} />`}
    ${one.kind === "log" && html`<${Text} label=${t("logText")} hint=${t("templates")} value=${one.text} change=${(text) => change({ ...one, text })} />`}
    ${count > 1 && html`<${Button} kind="quiet" class="small" onClick=${remove}>${t("removeAction")}<//>`}
  </fieldset>`;
}

function Form({ form, book, change }) {
  const set = (values) => change({ ...form, ...values });
  const spoken = form.kind === "speech";
  const types = book.event_types.filter((type) => type !== "other");
  return html`<div class="stack form">
    <${Text} label=${t("name")} hint=${t("nameAbout")} value=${form.name} change=${(name) => set({ name })} maxlength="200" />
    <fieldset class="chips"><legend>${t("what")}</legend><div class="row">${["sound", "speech"].map((kind) => html`<button type="button" class="chip" aria-pressed=${form.kind === kind} onClick=${() => set({ kind, how: kind === "speech" && form.how !== "times" && form.how !== "absent_" ? "starts" : form.how })}>${t(kind)}</button>`)}</div></fieldset>
    ${spoken && html`<${Field} label=${t("phrase")} hint=${t("phraseAbout")}>${(id, about) => html`<textarea id=${id} aria-describedby=${about} rows="3" value=${form.phrases} onInput=${(event) => set({ phrases: event.target.value })} />`}<//>`}
    ${!spoken && html`<${Chips} legend=${t("sounds")} none=${t("anySound")} items=${types.map((type) => [type, nameOf(type)])} chosen=${form.sounds} change=${(sounds) => set({ sounds })} />`}
    ${Object.keys(book.rooms).length > 0 && html`<${Chips} legend=${t("rooms")} none=${t("anyRoom")} items=${Object.entries(book.rooms)} chosen=${form.rooms} change=${(rooms) => set({ rooms })} />`}
    <${Select} label=${t("happens")} value=${form.how} options=${(spoken ? ["starts", "times", "absent_"] : ["starts", "lasts", "ends", "times", "absent_"]).map((key) => [key, t(key)])} change=${(how) => set({ how })} />
    ${form.how === "times" && html`<${Text} label=${t("count")} type="number" min="2" max="1000" value=${form.count} change=${(count) => set({ count: Math.max(1, Number(count) || 1) })} />`}
    ${["lasts", "absent_", "times"].includes(form.how) && html`<${Span} label=${t(form.how === "times" ? "within" : "span")} span=${form.span} unit=${form.unit} change=${set} />`}
    <${Switch} label=${t("hours")} on=${form.hours} change=${(hours) => set({ hours })} />
    ${form.hours && html`<div class="pair"><${Text} label=${t("from")} type="time" required value=${form.from} change=${(from) => from && set({ from })} /><${Text} label=${t("to")} type="time" required value=${form.to} change=${(to) => to && set({ to })} /></div>
      <${Chips} legend=${t("days")} none=${t("everyDay")} items=${DAYS.map((day) => [day, dayName(day)])} chosen=${form.days} change=${(days) => set({ days: DAYS.filter((day) => days.includes(day)) })} />`}
    ${form.actions.map((one, place) => html`<${Action} key=${place} one=${one} place=${place} count=${form.actions.length} rooms=${book.rooms}
      change=${(other) => set({ actions: form.actions.map((each, at) => (at === place ? other : each)) })} remove=${() => set({ actions: form.actions.filter((_, at) => at !== place) })} />`)}
    <div><${Button} kind="quiet" class="small" onClick=${() => set({ actions: [...form.actions, { kind: "log", text: "{{ label }} in {{ room_name }}" }] })}>${t("addAction")}<//></div>
    <${Switch} label=${t("pauseOn")} on=${form.pause} change=${(pause) => set({ pause })} />
    ${form.pause && html`<${Span} label=${t("pause")} span=${form.pauseSpan} unit=${form.pauseUnit} change=${({ span, unit }) => set({ pauseSpan: span, pauseUnit: unit })} />`}
  </div>`;
}

// --- the editor ---------------------------------------------------------------------------------------------------------

function Yaml({ text, change, mistakes }) {
  const gutter = useRef(null);
  const wrong = new Set(mistakes.map((one) => one.line));
  const lines = text.split("\n").length;
  const indent = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    const area = event.target;
    const before = area.value.slice(0, area.selectionStart);
    const line = before.slice(before.lastIndexOf("\n") + 1);
    const spaces = /^[ ]*/.exec(line)[0] + (/:\s*$/.test(line) ? "  " : "");
    event.preventDefault();
    area.setRangeText(`\n${spaces}`, area.selectionStart, area.selectionEnd, "end");
    change(area.value);
  };
  return html`<${Field} label=${t("text")} hint=${t("textAbout")}>${(id, about) => html`<div class="editor">
    <div class="gutter" ref=${gutter} aria-hidden="true">${Array.from({ length: lines }, (_, place) => html`<span class=${wrong.has(place + 1) ? "wrong" : ""}>${place + 1}</span>`)}</div>
    <textarea id=${id} aria-describedby=${about} aria-invalid=${mistakes.length > 0} class="code" spellcheck="false" autocapitalize="off" autocomplete="off" wrap="off" rows=${Math.max(12, lines + 1)} maxlength="20000" value=${text}
      onInput=${(event) => change(event.target.value)} onKeyDown=${indent} onScroll=${(event) => { gutter.current.scrollTop = event.target.scrollTop; }}></textarea></div>`}<//>`;
}

const Told = ({ items }) => html`<ul class="mistakes">${items.map((one) => html`<li>${one.line && html`<b>${t("line", { n: one.line })}</b> `}<span lang="en">${one.message}</span></li>`)}</ul>`;

// What the server thinks of a text, a moment after it was typed last: null while that is not known.
function useChecked(text, number) {
  const [checked, set] = useState(null);
  useEffect(() => {
    const aborting = new AbortController();
    set(null);
    const timer = setTimeout(() => api.post("rules/check", { text, number }, { signal: aborting.signal }).then(set, (error) => aborting.signal.aborted || set({ mistakes: [{ line: null, message: error.message }], warnings: [], words: null })), CHECK_AFTER);
    return () => { clearTimeout(timer); aborting.abort(); };
  }, [text, number]);
  return checked;
}

function Editor({ rule, book, changed }) {
  const [{ number, digest, lost }, setPlace] = useState({ number: rule?.number ?? null, digest: book.file.digest, lost: false });
  const original = useRef(rule?.text);
  const [form, setForm] = useState(() => (rule ? formOf(rule) : empty()));
  const [text, setText] = useState(() => rule?.text ?? yamlOf(empty()));
  const [tab, setTab] = useState(form ? "form" : "yaml");
  const [busy, setBusy] = useState(false);
  const [asking, ask] = useState(false);
  const [error, setError] = useState(null);
  const checked = useChecked(text, number);
  const [result, trying, start, forget] = useRehearsal(() => ({ text, number, days: 7 }));
  const latest = useRef(null);
  if (checked?.words) latest.current = checked.words;
  const write = (value) => { setText(value); setError(null); forget(); };
  const show = (which) => {
    if (which === "form" && checked?.words) {
      const made = formOf({ words: checked.words, text, named: /^\s*name:/m.test(text), name: /^\s*name:\s*(.*)$/m.exec(text)?.[1].replace(/^(["'])(.*)\1$/, "$2") ?? "" });
      setForm(made);
      if (!made) return setTab("yaml");
    }
    setTab(which);
  };
  const done = (message, version) => {
    toast(message, version && { action: version, actionText: t("undo") });
    location.hash = "#/rules";
    changed();
  };
  const doing = async (call, message) => {
    setBusy(true);
    setError(null);
    try {
      const made = await call();
      const { versions } = await api.get("configuration");
      done(message, versions.length && (() => goBack(versions[0].id, made.digest, changed)));
    } catch (problem) {
      if (problem.status === 409) await lookAgain();
      setBusy(false);
      setError(problem);
    }
  };
  // The file is another one by now: find the rule in it, which may have another number, or be another rule.
  const lookAgain = async () => {
    const fresh = await api.get("rules").catch(() => null);
    const same = fresh?.rules.find((one) => one.text === original.current);
    if (fresh) setPlace({ number: same?.number ?? null, digest: fresh.file.digest, lost: Boolean(rule) && !same });
  };
  const save = () => doing(() => (number ? api.put(`rules/${number}`, { text, digest }) : api.post("rules", { text, digest })), t("saved"));
  const remove = (yes) => { ask(false); if (yes) doing(() => api.delete(`rules/${number}`, { digest }), t("removed")); };
  const wrong = checked?.mistakes ?? [];
  const title = rule ? t("editTitle", { name: rule.named ? rule.name : t("rule", { n: rule.number }) }) : t("newTitle");
  return html`<${Page} title=${title} actions=${html`<a class="button quiet" href="#/rules">${t("back")}</a>`}>
    <div class="drafting">
      <section class="card">
        <div class="tabs row" role="group" aria-label=${`${t("form")} / ${t("yaml")}`}>${["form", "yaml"].map((key) => html`<button type="button" class="chip" aria-pressed=${tab === key} disabled=${key === "form" && !form && tab === "yaml" && !checked?.words} onClick=${() => show(key)}>${t(key)}</button>`)}</div>
        ${!form && tab === "yaml" && html`<p class="hint">${t("tooMuch")}</p>`}
        ${tab === "form" && form && html`<${Form} form=${form} book=${book} change=${(other) => { setForm(other); write(yamlOf(other)); }} />`}
        ${tab === "yaml" && html`<${Yaml} text=${text} change=${write} mistakes=${wrong} /><p class="hint">${t("guide")}</p>`}
      </section>
      <section class="card preview" aria-live="polite">
        <h2>${t("reads")}</h2>
        ${latest.current && html`<div class=${wrong.length ? "stale" : ""}><${Sentence} words=${latest.current} rooms=${book.rooms} /></div>`}
        ${checked === null && html`<p class="muted">${t("checking")}</p>`}
        ${checked && wrong.length === 0 && html`<${Notice} kind="good">${t("right")}<//>`}
        ${wrong.length > 0 && html`<${Notice} kind="bad" title=${t("mistakes", { n: wrong.length })}><${Told} items=${wrong} /><//>`}
        ${checked?.warnings.length > 0 && html`<${Notice} kind="warning" title=${t("warnings")}><${Told} items=${checked.warnings} /><//>`}
        ${error && html`<${Notice} kind="bad"><span lang="en">${error.message}</span>${error.status === 409 && html`<p>${t(lost ? "lost" : "moved")}</p>`}<//>`}
        <div class="row"><${Button} class="small" disabled=${!checked || wrong.length > 0} busy=${trying} onClick=${start}>${t("tryOne", { n: 7 })}<//></div>
        ${result && html`<${Rehearsal} result=${result} name="" rooms=${book.rooms} days=${7} />`}
        <div class="row apart">
          <div class="row"><${Button} kind="primary" busy=${busy} disabled=${!checked || wrong.length > 0} onClick=${save}>${t("save")}<//><a class="button quiet" href="#/rules">${t("cancel")}</a></div>
          ${number && html`<${Button} kind="danger" onClick=${() => ask(true)}>${t("remove")}<//>`}
        </div>
      </section>
    </div>
    <${Confirm} title=${t("removeAsk")} open=${asking} text=${t("removeAbout", { name: rule?.name ?? "" })} yes=${t("remove")} done=${remove} />
  <//>`;
}

export default function Rules({ rest }) {
  const [book, error, again] = useFetched((signal) => api.get("rules", {}, { signal }));
  const timer = useRef(0);
  const opened = useRef({});
  // Why a rule fired changes with what is heard; who writes is not disturbed.
  const soon = () => { clearTimeout(timer.current); timer.current = setTimeout(again, 400); };
  useMessages("event", () => rest.length === 0 && soon());
  useMessages("rooms", soon);
  useEffect(() => () => clearTimeout(timer.current), []);
  if (!book) return html`<${Page} title=${t("title")} lead=${t("lead")}>${error ? html`<${Failure} error=${error} again=${again} />` : html`<${Loading} />`}<//>`;
  Object.assign(titles, book.taught);
  if (rest[0] === "new") return html`<${Editor} key="new" book=${book} changed=${again} />`;
  // The rule that is being edited stays the one that was opened, whatever becomes of the file.
  if (opened.current.place !== rest[0]) opened.current = { place: rest[0], rule: book.rules.find((one) => String(one.number) === rest[0]) };
  const { rule } = opened.current;
  if (rule?.text) return html`<${Editor} key=${rule.number} rule=${rule} book=${book} changed=${again} />`;
  return html`<${List} book=${book} changed=${again} />`;
}
