// A rule as a sentence, and why it did or did not fire, in English and Japanese.

import { language, percent, texts } from "./i18n.js";
import { soundName } from "./words.js";
import { html } from "./ui.js";

const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const or = new Intl.ListFormat(language, { type: "disjunction" });
const tongues = new Intl.DisplayNames([language], { type: "language" });
const weekday = new Intl.DateTimeFormat(language, { weekday: "short" });
const clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

const t = texts({
  en: {
    any: "any sound", other: "any other sound", anything: "anything", quoted: "“{text}”", exactly: "exactly “{text}”", like: "something like /{text}/", labelled: "{sounds} ({labels})",
    weekdays: "weekdays", weekend: "the weekend", everywhere: "everywhere", same: "in the same room", there: "in {place}",
    when: ({ b, subject, said, how, score, tongue, room, hours, days, alone }) => ["When ", b(subject), said && " is said", how.length > 0 && [" ", how], score && ` (at least ${score} sure)`, tongue && ` in ${tongue}`, room && [" in ", b(room)], hours && [" between ", b(hours[0]), " and ", b(hours[1])], days && [" on ", b(days)], alone && ", even if only the language model hears it"],
    starts: () => ["starts"], ends: () => ["ends"], heard: () => [], lasts: ({ b, span }) => ["lasts ", b(span)], absent: ({ b, span, said }) => [said ? "not once in " : "is not heard for ", b(span)],
    times: ({ b, n, span, said }) => [said ? "" : "is heard ", b(`${n} times`), " within ", b(span)],
    publish: ({ what, where }) => ["send ", what, " to ", where], say: ({ what, where }) => ["say ", what, " ", where], log: ({ what }) => ["write ", what, " into the log"],
    webhook: ({ where }) => ["call ", where], keep_clip: () => ["keep the recording"], ask: ({ what }) => ["ask the language model ", what], describe: () => ["have the language model describe it"],
    cooldown: "then not again for {span}",
    fired: "Fired", room: "Heard in {place}, not in the rule’s room", score: "Not sure enough: {score}", label: "Another kind of this sound", language: "Said in another language", words: "Something else was said", hours: "Outside its hours",
    doubted: "Only the language model heard it", cooled: "Rests until {time}", counting: "{n} so far: not often enough", waiting: "Waits whether it lasts until {time}", short: "Over after {span}: too soon", present: "It was heard, so the wait begins anew",
    failed: "A template could not be filled", refused: "No broker takes the topic", unanswered: "Went on without an answer",
  },
  ja: {
    any: "どれかの音", other: "そのほかの音", anything: "何か", quoted: "「{text}」", exactly: "「{text}」だけ", like: "/{text}/ のような言葉", labelled: "{sounds}（{labels}）",
    weekdays: "平日", weekend: "週末", everywhere: "すべての部屋", same: "同じ部屋", there: "{place}",
    when: ({ b, subject, said, how, score, tongue, room, hours, days, alone }) => [days && [b(days), "の"], hours && [b(`${hours[0]}～${hours[1]}`), "に、"], room && [b(room), "で"], tongue && `${tongue}で`, b(subject), said ? "と" : "が", how, score && `（確かさ ${score} 以上）`, alone && "（言語モデルだけが聞いた場合も）"],
    starts: () => ["聞こえたら"], ends: () => ["やんだら"], heard: () => ["言われたら"], lasts: ({ b, span }) => [b(span), "続いたら"], absent: ({ b, span, said }) => [b(span), said ? "言われなかったら" : "聞こえなかったら"],
    times: ({ b, n, span, said }) => [b(span), "のうちに", b(`${n} 回`), said ? "言われたら" : "聞こえたら"],
    publish: ({ what, where }) => [where, "に", what, "を送信"], say: ({ what, where }) => [where, "で", what, "と読み上げ"], log: ({ what }) => ["ログに", what, "と記録"],
    webhook: ({ where }) => [where, "を呼び出し"], keep_clip: () => ["録音を残す"], ask: ({ what }) => ["言語モデルに", what, "と質問"], describe: () => ["言語モデルに説明させる"],
    cooldown: "その後{span}は動かない",
    fired: "動きました", room: "{place}で聞こえました（このルールの部屋ではありません）", score: "確かさが足りません（{score}）", label: "同じ種類の別の音でした", language: "別の言語でした", words: "別の言葉でした", hours: "時間帯の外でした",
    doubted: "言語モデルだけが聞きました", cooled: "{time} まで休みです", counting: "まだ {n} 回です", waiting: "{time} まで続くか待っています", short: "{span}でやみました（短すぎます）", present: "聞こえたので、数えなおします",
    failed: "テンプレートを埋められませんでした", refused: "ブローカーが受け付けないトピックです", unanswered: "回答なしで続けました",
  },
});

export const titles = {}; // of taught sounds, by event type
export const nameOf = (type) => soundName(type, titles[type]);

const b = (text) => html`<b>${text}</b>`;
const code = (text) => html`<code>${text.length > 90 ? `${text.slice(0, 90)}…` : text}</code>`;

// Seconds as people say them: 2 min, 1 hr 30 min.
export function duration(seconds) {
  const parts = [];
  let left = seconds;
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]]) {
    const count = unit === "second" ? Math.round(10 * left) / 10 : Math.floor(left / size);
    if (count) parts.push(new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: 1 }).format(count));
    left -= count * size;
  }
  return parts.slice(0, 2).join(" ") || new Intl.NumberFormat(language, { style: "unit", unit: "second", unitDisplay: "short" }).format(0);
}

export const dayName = (day) => weekday.format(new Date(2026, 10, 23 + DAYS.indexOf(day)));

function daysText(days) {
  if (days.join() === DAYS.slice(0, 5).join()) return t("weekdays");
  if (days.join() === DAYS.slice(5).join()) return t("weekend");
  return or.format(days.map(dayName));
}

function subject(when) {
  const said = [...(when.speech ?? []).filter((one) => one !== "any").map((text) => t("quoted", { text })), ...(when.exactly ?? []).map((text) => t("exactly", { text })), ...(when.regex ? [t("like", { text: when.regex })] : [])];
  if (said.length) return or.format(said);
  if (when.speech) return t("anything");
  const sounds = !when.sound || when.sound.includes("any") ? t("any") : or.format(when.sound.map((type) => (type === "other" ? t("other") : nameOf(type))));
  return when.label ? t("labelled", { sounds, labels: or.format(when.label.map((text) => t("quoted", { text }))) }) : sounds;
}

function manner(when, said) {
  const values = { b, said, n: when.times };
  if (when.lasting) return t("lasts", { ...values, span: duration(when.lasting) });
  if (when.absent) return t("absent", { ...values, span: duration(when.absent) });
  if (when.times) return t("times", { ...values, span: duration(when.within) });
  return t(said ? "heard" : when.state === "ended" ? "ends" : "starts");
}

export function deed({ kind, what, where }, rooms) {
  const place = kind === "say" ? b(where === "all" ? t("everywhere") : where ? t("there", { place: rooms[where] ?? where }) : t("same")) : where && code(where);
  return t(kind, { what: kind === "say" ? t("quoted", { text: what }) : code(what), where: place });
}

// rooms: names by id
export function Sentence({ words, rooms }) {
  const { when } = words;
  const said = Boolean(when.speech || when.exactly || when.regex);
  return html`<p class="sentence">${t("when", {
    b, said, subject: subject(when), how: manner(when, said),
    score: when.score != null && percent(when.score),
    tongue: when.language && or.format(when.language.map((code_) => tongues.of(code_))),
    room: when.room && or.format(when.room.map((id) => rooms[id] ?? id)),
    hours: when.between && when.between.split("-"), days: when.days && daysText(when.days), alone: words.unconfirmed,
  })}<span class="arrow" aria-hidden="true"> → </span>${words.do.map((one, place) => [place > 0 && html`<span class="arrow" aria-hidden="true"> → </span>`, deed(one, rooms)])}${words.cooldown && html` <span class="muted">(${t("cooldown", { span: duration(words.cooldown) })})</span>`}</p>`;
}

const moment = (unix) => clock.format(new Date(unix * 1000));

// Why a rule did or did not fire.
export function outcome(one, rooms) {
  const place = rooms[one.room] ?? one.room;
  const key = one.outcome === "cooldown" ? "cooled" : one.outcome;
  const time = one.value != null && ["cooldown", "waiting"].includes(one.outcome) ? moment(one.value) : "";
  return t(key, { place, time, score: percent(one.value), n: one.value, span: one.outcome === "short" ? duration(one.value ?? 0) : "" });
}
