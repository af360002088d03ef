// Events: what was heard, the newest first; the day as a heat-map; what people say of it.

import { api } from "../api.js";
import { clockOf, count, EventCard, shownThreshold, SteadyCard } from "../events/card.js";
import { HeatMap, hourName } from "../events/heatmap.js";
import { belongs, changed, heard, midnight, moved, older, query, today, unix, zone } from "../events/store.js";
import { language, number, texts, timeOf } from "../i18n.js";
import { Button, Card, copy, Empty, failed, Failure, Field, html, Loading, Notice, Page, toast, useCallback, useEffect, useFetched, useLayoutEffect, useLive, useMessages, useRef, useState } from "../ui.js";
import { byName, modelNames, soundName } from "../words.js";

const t = texts({
  en: {
    title: "Events", lead: "What was heard, the newest first", day: "Day", before: "The day before", after: "The day after", today: "Today",
    room: "Room", rooms: "All rooms", sound: "Sound", sounds: "All sounds", text: "What was said", search: "Find words", private: "What was said is private: privacy.transcripts is off.",
    only: "Only {what}", clear: "Show everything", none: "Nothing was heard yet", none_text: "Events appear here as soon as they are heard.",
    nothing: "Nothing fits these filters", more: "Older events", over: "These are all events.", new: "New events", yesterday: "Yesterday",
    snoozes: "{sound} in {room} is told to nobody until {time}.", silenced: "{n} heard so far.", grave: "Nobody is told of this alarm in {room}.", end: "End snooze",
    moved: "Thresholds that verdicts have moved", change: "{sound} in {room}: {before} → {after}, because of {n}", same: "{sound} in {room}: {n}, nothing moved", reset: "Reset", was_reset: "The threshold is as it was configured.",
    unremembered: "Nothing is remembered (history.enabled is false): events are shown only as they come.", back: "All events", copy: "Copy link", ask: "Ask about the recording", copied: "The link is copied.",
    source: "Source", start: "Began", ended: "Ended", level: "Level", model: "Heard by", latency: "Told after", label: "Label of the model", language: "Language", intent: "Command", id: "Id", emotion: "Emotion", details: "Details", until_day: "until the end of {day}",
  },
  ja: {
    title: "できごと", lead: "聞こえたもの（新しい順）", day: "日付", before: "前の日", after: "次の日", today: "今日",
    room: "部屋", rooms: "すべての部屋", sound: "音", sounds: "すべての音", text: "話した内容", search: "ことばを検索", private: "話した内容は非公開です（privacy.transcripts がオフ）。",
    only: "{what}のみ", clear: "すべて表示", none: "まだ何も聞こえていません", none_text: "聞こえた音はすぐここに表示されます。",
    nothing: "条件に合うものはありません", more: "さらに古いもの", over: "これで全部です。", new: "新しいできごと", yesterday: "昨日",
    snoozes: "{room}の{sound}は{time}まで誰にも知らせません。", silenced: "これまでに{n}回聞こえました。", grave: "{room}のこの警報は誰にも知らされません。", end: "休止をやめる",
    moved: "評価で動いたしきい値", change: "{room}の{sound}：{before} → {after}（{n}による）", same: "{room}の{sound}：{n}（変化なし）", reset: "元に戻す", was_reset: "しきい値を設定どおりに戻しました。",
    unremembered: "記録はオフです（history.enabled: false）。できごとは聞こえたときだけ表示されます。", back: "すべてのできごと", copy: "リンクをコピー", ask: "録音について聞く", copied: "リンクをコピーしました。",
    source: "音源", start: "開始", ended: "終了", level: "音量", model: "判定", latency: "通知までの時間", label: "モデルのラベル", language: "言語", intent: "コマンド", id: "ID", emotion: "感情", details: "詳細", until_day: "{day}まで",
  },
});

const dates = new Intl.DateTimeFormat(language, { weekday: "long", day: "numeric", month: "long" });
const named = (day) => {
  if (day === today()) return t("today");
  if (day === moved(today(), -1)) return t("yesterday");
  return dates.format(new Date(1000 * midnight(day, 12)));
};
const localDay = (iso) => { const date = new Date(iso); return [date.getFullYear(), date.getMonth() + 1, date.getDate()].map((n) => String(n).padStart(2, "0")).join("-"); };
const NOTHING = { room: "", type: "", text: "", hour: null };

function useRooms() {
  const { rooms } = useLive();
  return useCallback((id) => rooms.find((room) => room.id === id)?.name ?? id, [rooms]);
}

// Calls `act` when the connection is there again: something may have been missed.
function useReconnected(act) {
  const gone = useRef(false);
  useMessages("connection", (on) => {
    if (on && gone.current) act();
    gone.current = !on;
  });
}

// What is snoozed and which thresholds have moved: fetched once, then told.
function useWhatIsSaid() {
  const [snoozes, setSnoozes] = useState([]);
  const [thresholds, setThresholds] = useState([]);
  const look = () => {
    api.get("snoozes").then(setSnoozes, failed);
    api.get("thresholds").then(setThresholds, failed);
  };
  useEffect(look, []);
  useMessages("snoozes", (message) => setSnoozes(message.snoozes));
  useMessages("thresholds", (message) => setThresholds(message.thresholds));
  useReconnected(look);
  return { snoozes, thresholds };
}

function Snoozes({ snoozes, roomName }) {
  return snoozes.map((one) => {
    const room = roomName(one.room);
    const wake = () => api.delete(`snoozes/${encodeURIComponent(one.room)}/${encodeURIComponent(one.kind)}`).catch(failed);
    return html`<${Notice} key=${`${one.room}/${one.kind}`} kind=${one.life_safety ? "bad" : "warning"} title=${one.life_safety && t("grave", { room })} action=${html`<${Button} class="small" onClick=${wake}>${t("end")}<//>`}>
      ${t("snoozes", { sound: soundName(one.event_type, one.label), room, time: clockOf(one.until) })} ${one.silenced > 0 && t("silenced", { n: one.silenced })}<//>`;
  });
}

function Thresholds({ thresholds, roomName }) {
  if (!thresholds.length) return null;
  const reset = (one) => api.delete(`thresholds/${encodeURIComponent(one.room)}/${encodeURIComponent(one.kind)}`).then(() => toast(t("was_reset")), failed);
  return html`<details class="card moved"><summary>${t("moved")} (${thresholds.length})</summary><ul>
    ${thresholds.map((one) => {
      const values = { sound: soundName(one.event_type, one.label), room: roomName(one.room), n: count(one.correct + one.wrong), before: shownThreshold(one.configured), after: shownThreshold(one.in_force) };
      return html`<li key=${`${one.room}/${one.kind}`} class="row apart"><span>${t(one.in_force === one.configured ? "same" : "change", values)}</span><${Button} kind="quiet" class="small" onClick=${() => reset(one)}>${t("reset")}<//></li>`;
    })}</ul></details>`;
}

function DayMap({ filters, set, day, setDay, live }) {
  const [found, error, again] = useFetched((signal) => api.get("events/hours", { room: filters.room || undefined, text: filters.text || undefined, day, zone }, { signal }), [day, filters.room, filters.text]);
  const [extra, setExtra] = useState([]);
  useEffect(() => setExtra([]), [found]);
  live.current = (event) => day === localDay(event.start) && belongs(event, { ...filters, type: "" }) && setExtra((before) => [...before, event]);
  useReconnected(again);
  const rows = found && added(found.rows, extra);
  const pick = (to) => to && to <= today() && setDay(to);
  return html`<${Card} title=${named(day)} actions=${html`
      <${Button} class="small" aria-label=${t("before")} title=${t("before")} onClick=${() => pick(moved(day, -1))}>‹<//>
      <label><span class="visually-hidden">${t("day")}</span><input type="date" value=${day} max=${today()} required onChange=${(event) => pick(event.target.value)} /></label>
      <${Button} class="small" aria-label=${t("after")} title=${t("after")} disabled=${day >= today()} onClick=${() => pick(moved(day, 1))}>›<//>
      ${day !== today() && html`<${Button} class="small" onClick=${() => pick(today())}>${t("today")}<//>`}`}>
    ${error ? html`<${Failure} error=${error} again=${again} />` : !rows ? html`<${Loading} />` : html`<${HeatMap} rows=${rows} chosen=${{ type: filters.type, hour: filters.hour }} choose=${(what) => set({ ...filters, ...what })} />`}
  <//>`;
}

// The counts of a day and what has come since they were fetched.
function added(rows, events) {
  const sums = new Map(rows.map((row) => [row.event_type, { ...row, hours: [...row.hours] }]));
  for (const event of events) {
    const row = sums.get(event.event_type) ?? { event_type: event.event_type, total: 0, hours: Array(24).fill(0) };
    row.total += 1;
    row.hours[new Date(event.start).getHours()] += 1;
    sums.set(event.event_type, row);
  }
  return [...sums.values()].sort((a, b) => b.total - a.total || a.event_type.localeCompare(b.event_type));
}

function Filters({ filters, set, about, chip }) {
  const { rooms } = useLive();
  const [text, setText] = useState(filters.text);
  useEffect(() => {
    if (text === filters.text) return;
    const timer = setTimeout(() => set({ ...filters, text }), 250);
    return () => clearTimeout(timer);
  }, [text]);
  useEffect(() => setText(filters.text), [filters.text]);
  const types = byName(about?.event_types ?? []);
  return html`<div class="filters" role="search">
    <${Field} label=${t("room")}>${(id) => html`<select id=${id} value=${filters.room} onChange=${(event) => set({ ...filters, room: event.target.value })}>
      <option value="">${t("rooms")}</option>${rooms.map((room) => html`<option value=${room.id} selected=${room.id === filters.room}>${room.name}</option>`)}</select>`}<//>
    <${Field} label=${t("sound")}>${(id) => html`<select id=${id} value=${filters.type} onChange=${(event) => set({ ...filters, type: event.target.value })}>
      <option value="">${t("sounds")}</option>${types.map((type) => html`<option value=${type} selected=${type === filters.type}>${soundName(type)}</option>`)}</select>`}<//>
    <${Field} label=${t("text")} hint=${about && !about.words && t("private")}>${(id, hint) => html`<input id=${id} aria-describedby=${hint} type="search" maxlength="200" placeholder=${t("search")} disabled=${!about?.words}
      value=${text} onInput=${(event) => setText(event.target.value)} />`}<//>
    ${chip && html`<div class="row chips"><span class="badge accent">${t("only", { what: chip })}</span><${Button} kind="quiet" class="small" onClick=${() => set(NOTHING)}>${t("clear")}<//></div>`}
  </div>`;
}

// Entries that are shown or left out together: what is far from the screen keeps its height and nothing else.
function Chunk({ entries, after, roomName, snoozeOf, change, first }) {
  const box = useRef(null);
  const [near, setNear] = useState(first);
  const height = useRef(entries.length * 190);
  useEffect(() => {
    const watching = new IntersectionObserver(([seen]) => {
      if (!seen.isIntersecting && box.current) height.current = box.current.offsetHeight || height.current;
      setNear(seen.isIntersecting);
    }, { rootMargin: "1600px 0px" });
    watching.observe(box.current);
    return () => watching.disconnect();
  }, []);
  let day = after; // that of the entry before, which has the heading
  return html`<div class="chunk" ref=${box} style=${near ? {} : { height: `${height.current}px` }}>
    ${near && entries.map((entry) => {
      const its = localDay(entry.event.start);
      const heading = its !== day && its;
      day = its;
      return html`${heading && html`<h2 key=${`day-${its}`} class="day">${named(its)}</h2>`}
        <${SteadyCard} key=${entry.event.id} entry=${entry} room=${roomName(entry.event.room)} snooze=${snoozeOf(entry)} change=${change} />`;
    })}
  </div>`;
}

// The list: [pages, state] for filters. Filters that change begin it anew.
function useEvents(filters, remembered) {
  const [pages, setPages] = useState(null);
  const [state, setState] = useState({ next: null, busy: false, error: null });
  const shown = useRef(filters);
  const running = useRef(null);
  const arrived = useRef(null); // events that come while the first page is fetched, which may not have them yet
  shown.current = filters;
  const key = JSON.stringify(filters);

  const load = async (next) => {
    running.current?.abort();
    const aborting = new AbortController();
    running.current = aborting;
    const came = next ? null : [];
    arrived.current = came;
    setState((before) => ({ ...before, busy: true, error: null }));
    try {
      const found = await older(filters, next, aborting.signal);
      if (aborting.signal.aborted) return;
      setPages((before) => (next && before ? [...before, found.events] : (came ?? []).reduce(heard, [found.events])));
      arrived.current = null;
      setState({ next: found.next, busy: false, error: null });
    } catch (error) {
      if (aborting.signal.aborted) return;
      arrived.current = null;
      setState((before) => ({ ...before, busy: false, error }));
    }
  };
  useEffect(() => {
    if (remembered === false) { // only what comes live
      setPages((before) => before ?? []);
      setState({ next: null, busy: false, error: null });
    } else {
      load(null); // before that is known: it nearly always is
    }
    return () => running.current?.abort();
  }, [key, remembered === false]);
  useReconnected(() => remembered && load(null));

  const change = useCallback((entry) => setPages((before) => before && changed(before, entry.event.id, () => entry)), []);
  // What the daemon knows of an entry beyond the event: asked for when it has come or changed.
  const complete = (id) => api.get(`events/${id}`).then((entry) => setPages((before) => before && changed(before, id, () => entry)), () => {});
  useMessages("event", ({ event }) => {
    if (!belongs(event, shown.current)) return;
    arrived.current?.push(event);
    setPages((before) => before && heard(before, event));
    complete(event.id);
  });
  const update = (id, change) => setPages((before) => before && changed(before, id, change));
  useMessages("clip", ({ id, clip }) => (clip ? complete(id) : update(id, (entry) => ({ ...entry, clip: { state: "none", picture: false } }))));
  useMessages("verdict", ({ id, opinion }) => update(id, (entry) => ({ ...entry, opinion })));
  useMessages("thresholds", ({ thresholds }) => setPages((before) => before && before.map((page) => {
    let same = true;
    const now = page.map((entry) => {
      const said = entry.threshold && thresholds.find((one) => one.room === entry.event.room && one.kind === entry.subject);
      const in_force = said ? said.in_force : entry.threshold?.configured;
      if (!entry.threshold || in_force === entry.threshold.in_force) return entry;
      same = false;
      return { ...entry, threshold: said ?? { ...entry.threshold, in_force, correct: 0, wrong: 0 } };
    });
    return same ? page : now;
  })));
  return [pages, state, load, change];
}

function List({ pages, state, load, change, roomName, snoozes, empty }) {
  const end = useRef(null);
  const snoozeOf = useCallback((entry) => snoozes.find((one) => one.room === entry.event.room && one.kind === entry.subject), [snoozes]);
  useEffect(() => {
    if (!state.next || state.busy || state.error) return;
    const watching = new IntersectionObserver(([seen]) => seen.isIntersecting && load(state.next), { rootMargin: "1200px 0px" });
    watching.observe(end.current);
    return () => watching.disconnect();
  }, [state.next, state.busy, state.error]);
  const none = pages && pages.every((page) => !page.length);
  return html`<section class="timeline" aria-label=${t("title")} aria-busy=${state.busy}>
    ${none && !state.busy && !state.error && empty}
    ${pages?.map((page, index) => html`<${Chunk} key=${page.at(-1)?.event.id ?? index} after=${pages[index - 1]?.length ? localDay(pages[index - 1].at(-1).event.start) : null} first=${index === 0} entries=${page} roomName=${roomName} snoozeOf=${snoozeOf} change=${change} />`)}
    ${state.error && html`<${Failure} error=${state.error} again=${() => load(pages?.some((page) => page.length) ? state.next : null)} />`}
    <div ref=${end} class="row end-of-list">
      ${state.next ? html`<${Button} busy=${state.busy} onClick=${() => load(state.next)}>${t("more")}<//>` : state.busy || !pages ? html`<${Loading} />` : !none && html`<p class="muted">${t("over")}</p>`}
    </div>
  </section>`;
}

function Everything({ hidden, roomName, said }) {
  const [about, error, again] = useFetched((signal) => api.get("events/about", {}, { signal }));
  const [filters, set] = useState(NOTHING);
  const [day, setDay] = useState(today());
  const tally = useRef(() => {});
  const { room, type, text, hour } = filters;
  const span = hour === null
    ? { until: day === today() && !type ? undefined : midnight(moved(day, 1)) }
    : { since: midnight(day, hour), until: midnight(day, hour + 1) };
  if (hour === null && day === today()) span.until = undefined;
  const [pages, state, load, change] = useEvents({ room, type, text, ...span }, about?.remembered);
  const counted = useRef(new Set());
  useMessages("event", ({ event }) => {
    if (counted.current.has(event.id)) return;
    counted.current.add(event.id);
    if (event.state !== "ended") tally.current(event);
  });
  useReconnected(again);
  if (error && !about) return html`<${Failure} error=${error} again=${again} />`;
  const chips = [type && soundName(type), hour !== null && hourName(hour), day !== today() && hour === null && t("until_day", { day: named(day) }), text && `“${text}”`].filter(Boolean);
  const untouched = !room && !chips.length;
  const clear = (next) => { set(next); if (next === NOTHING) setDay(today()); };
  return html`<div hidden=${hidden} class="stack">
    <${Snoozes} snoozes=${said.snoozes} roomName=${roomName} />
    ${about && !about.remembered && html`<${Notice}>${t("unremembered")}<//>`}
    ${about?.remembered && html`<${DayMap} filters=${filters} set=${set} day=${day} setDay=${(to) => { setDay(to); set({ ...filters, hour: null }); }} live=${tally} />`}
    <${Filters} filters=${filters} set=${clear} about=${about} chip=${chips.join(" · ")} />
    <${Thresholds} thresholds=${said.thresholds} roomName=${roomName} />
    <${List} pages=${pages} state=${state} load=${load} change=${change} roomName=${roomName} snoozes=${said.snoozes}
      empty=${untouched ? html`<${Empty} title=${t("none")}><p>${t("none_text")}</p><//>` : html`<${Empty} title=${t("nothing")}><${Button} onClick=${() => clear(NOTHING)}>${t("clear")}<//><//>`} />
  </div>`;
}

function Facts({ event, room }) {
  const when = (iso) => new Date(iso).toLocaleString(language, { dateStyle: "full", timeStyle: "medium" });
  const facts = [
    ["room", room], ["start", when(event.start)], ["ended", event.end && when(event.end)], ["model", modelNames(event.model).join(" + ")],
    ["label", event.kind === "sound" && event.label], ["language", event.language], ["emotion", event.emotion],
    ["intent", event.intent && `${event.intent.name} ${Object.entries(event.intent.slots).map(([key, value]) => `${key}: ${value}`).join(", ")}`],
    ["level", event.level_dbfs != null && `${number(event.level_dbfs)} dBFS`], ["latency", `${number(1000 * event.latency)} ms`], ["source", event.source], ["id", event.id],
  ].filter(([, value]) => value);
  return html`<dl class="known">${facts.map(([name, value]) => html`<div><dt>${t(name)}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function One({ id, roomName, said }) {
  const [found, error, again] = useFetched((signal) => api.get(`events/${encodeURIComponent(id)}`, {}, { signal }), [id]);
  const [entry, change] = useState(null);
  useEffect(() => change(found ?? null), [found]);
  useMessages("event", ({ event }) => event.id === id && again());
  useMessages("clip", (message) => message.id === id && again());
  useMessages("thresholds", () => again());
  const link = entry?.url ?? location.href;
  return html`<div class="stack">
    <p><a href="#/events">‹ ${t("back")}</a></p>
    ${error && html`<${Failure} error=${error} again=${again} />`}
    ${!entry && !error && html`<${Loading} />`}
    ${entry && html`<div class="alone"><${EventCard} entry=${entry} room=${roomName(entry.event.room)} snooze=${said.snoozes.find((one) => one.room === entry.event.room && one.kind === entry.subject)} change=${change} large=${true} /></div>
      <${Card} title=${t("details")} actions=${html`${entry.clip.state === "kept" && html`<a class="button small" href=${`#/ask/event/${entry.event.id}`}>${t("ask")}</a>`}<${Button} class="small" onClick=${() => copy(link).then(() => toast(t("copied")), failed)}>${t("copy")}<//>`}><${Facts} event=${entry.event} room=${roomName(entry.event.room)} /><//>`}
  </div>`;
}

export default function Events({ rest }) {
  const roomName = useRooms();
  const said = useWhatIsSaid();
  const id = rest[0];
  const place = useRef(0);
  useEffect(() => { // back from one event: where one was
    if (id) return;
    scrollTo(0, place.current);
    const keep = () => { if (!location.hash.includes("events/")) place.current = scrollY; };
    addEventListener("scroll", keep, { passive: true });
    return () => removeEventListener("scroll", keep);
  }, [id]);
  return html`<${Page} title=${t("title")} lead=${!id && t("lead")}>
    ${id && html`<${One} key=${id} id=${id} roomName=${roomName} said=${said} />`}
    <${Everything} hidden=${Boolean(id)} roomName=${roomName} said=${said} />
  <//>`;
}
