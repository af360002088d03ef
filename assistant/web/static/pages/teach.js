// Teach: sounds of one's own, and the wizard that takes them from a name to a sound that is heard.

import { api } from "../api.js";
import { dayOf, number, percent, timeOf } from "../i18n.js";
import { live } from "../live.js";
import { possible, record } from "../teach/recording.js";
import { judged, KINDS, t } from "../teach/texts.js";
import { Badge, Button, Card, Confirm, Empty, Failure, failed, Field, html, Loading, Notice, Page, Select, toast, useEffect, useFetched, useLive, useMessages, useRef, useState } from "../ui.js";

const SECONDS = 4;
const COUNTDOWN = 3;
const SLOW = { patience: 60000 };
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const Verdict = ({ verdict }) => html`<${Notice} kind=${KINDS[verdict.kind]} title=${t("stop", { text: t(verdict.kind) })}>${judged(verdict)}<//>`;

function Sound({ sound, forget }) {
  return html`<${Card} title=${sound.title} class="taught" actions=${html`<${Badge} kind=${KINDS[sound.verdict.kind]}>${t(sound.verdict.kind)}<//>`}>
    <p>${judged(sound.verdict)}</p>
    <dl class="facts"><div><dt>${t("event_type")}</dt><dd><code>${sound.name}</code></dd></div>
      <div><dt>${t("taught")}</dt><dd>${dayOf(sound.taught)}</dd></div></dl>
    <div class="row apart"><span class="muted">${t("examples", { n: sound.examples.length })} · ${t("from", { score: percent(sound.threshold) })}</span>
      <${Button} kind="danger" class="small" aria-label=${`${t("forget")}: ${sound.title}`} onClick=${() => forget(sound)}>${t("forget")}<//></div>
  <//>`;
}

function List() {
  const [found, error, again] = useFetched((signal) => api.get("teach", {}, { signal }));
  const [going, setGoing] = useState(null);
  const done = async (yes) => {
    const sound = going;
    setGoing(null);
    if (!yes) return;
    await api.delete(`teach/sounds/${sound.name}`).then(() => toast(t("forgotten", { title: sound.title })), failed);
    again();
  };
  const add = html`<a class="button primary" href="#/teach/new">${t("add")}</a>`;
  return html`<${Page} title=${t("title")} lead=${t("lead")} actions=${found?.sounds.length ? add : null}>
    ${error ? html`<${Failure} error=${error} again=${again} />` : !found ? html`<${Loading} />` : html`
      ${found.problems.length > 0 && html`<${Notice} kind="warning" title=${t("problems")}>${found.problems.join(" ")}<//>`}
      ${found.sounds.length === 0 ? html`<${Empty} title=${t("none")}><p>${t("none_text")}</p>${add}<//>` : html`
        <div class="grid">${found.sounds.map((sound) => html`<${Sound} key=${sound.name} sound=${sound} forget=${setGoing} />`)}</div>`}
      <p class="muted">${t("house", { heard: found.heard, days: found.days })}</p>`}
    <${Confirm} title=${going ? t("forget_title", going) : ""} open=${going !== null} text=${t("forget_text")} yes=${t("forget")} done=${done} />
  <//>`;
}

// --- the wizard ----------------------------------------------------------------------------------------------------

const STEPS = ["name", "examples", "try"];
const Steps = ({ at }) => html`<ol class="steps" aria-label=${t("steps")}>${STEPS.map((step, i) => html`<li aria-current=${step === at ? "step" : undefined} class=${i < STEPS.indexOf(at) ? "done" : ""}><span class="number" aria-hidden="true">${i + 1}</span>${t(`step_${step}`)}</li>`)}</ol>`;

function Name({ begun }) {
  const [title, setTitle] = useState("");
  const [slug, setSlug] = useState("");
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const go = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      begun(await api.post("teach/drafts", { title: title.trim(), name: slug.trim() || null }));
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  return html`<form class="card" onSubmit=${go}>
    <${Field} label=${t("name_label")} hint=${t("name_hint")} error=${error?.message}>
      ${(id, about) => html`<input id=${id} aria-describedby=${about} maxlength="80" required placeholder=${t("name_placeholder")} value=${title} onInput=${(event) => setTitle(event.target.value)} />`}
    <//>
    <details><summary>${t("more")}</summary>
      <${Field} label=${t("slug_label")} hint=${t("slug_hint")}>
        ${(id, about) => html`<input id=${id} aria-describedby=${about} maxlength="40" pattern="[a-z0-9_]+" autocapitalize="off" spellcheck=${false} value=${slug} onInput=${(event) => setSlug(event.target.value)} />`}
      <//>
    </details>
    <div class="row end"><a class="button quiet" href="#/teach">${t("cancel")}</a>
      <button class="button primary" disabled=${busy || !title.trim()} aria-busy=${busy}>${t("next")}</button></div>
  </form>`;
}

// A bar that a ref moves without rendering: 0 … 1.
const Meter = ({ bar, label }) => html`<div class="meter" data-open="true" role="img" aria-label=${label}><span class="bar" ref=${bar}></span></div>`;
const move = (bar, value) => bar.current?.style.setProperty("--level", value.toFixed(3));
const loudness = (dbfs) => Math.min(1, Math.max(0, 1 + dbfs / 70));

function useCountdown() {
  const [phase, set] = useState({ name: "idle" }); // idle, starts (n), recording, listening
  const gone = useRef(false);
  useEffect(() => () => { gone.current = true; }, []);
  const run = async (recording) => {
    try {
      for (let n = COUNTDOWN; n > 0; n -= 1) {
        set({ name: "starts", n });
        await wait(1000);
        if (gone.current) return;
      }
      set({ name: "recording" });
      await recording(() => !gone.current && set({ name: "listening" }));
    } catch (error) {
      failed(error);
    } finally {
      if (!gone.current) set({ name: "idle" });
    }
  };
  return [phase, run];
}

const Phase = ({ phase }) => html`<p class="phase ${phase.name}" role="status">${phase.name === "starts" ? t("starts", phase) : phase.name === "recording" ? t("recording") : phase.name === "listening" ? t("listening") : ""}</p>`;

function ByRoom({ draft, added }) {
  const { rooms } = useLive();
  const heard = rooms.filter((room) => room.presence === "online");
  const [chosen, choose] = useState("");
  const room = heard.some((one) => one.id === chosen) ? chosen : (heard[0]?.id ?? "");
  const [phase, run] = useCountdown();
  const bar = useRef(null);
  useEffect(() => (room ? live.watch(room) : undefined), [room]);
  useMessages("sound", (message) => message.room === room && move(bar, loudness(message.dbfs)));
  useMessages("level", (message) => message.room === room && move(bar, loudness(message.dbfs)));
  if (!heard.length) return html`<${Notice} kind="warning">${t("offline")}<//>`;
  const go = () => run(async (listening) => {
    const timer = setTimeout(listening, 1000 * SECONDS);
    try {
      added(await api.post(`teach/drafts/${draft.id}/recordings`, { room, seconds: SECONDS }, SLOW));
    } finally {
      clearTimeout(timer);
    }
  });
  return html`<div class="stack">
    <${Select} label=${t("room")} value=${room} options=${heard.map((one) => [one.id, one.name])} change=${choose} />
    <${Meter} bar=${bar} label=${t("level")} />
    <div class="row"><${Button} kind="primary" busy=${phase.name !== "idle"} onClick=${go}>${t("record")}<//><${Phase} phase=${phase} /></div>
  </div>`;
}

function ByBrowser({ draft, added }) {
  const [phase, run] = useCountdown();
  const bar = useRef(null);
  if (!possible()) return html`<${Notice}>${t("insecure")}<//>`;
  const go = () => run(async (listening) => {
    let blob;
    try {
      blob = await record(SECONDS, { level: (value) => move(bar, value), began: () => {} });
    } catch (error) {
      throw error.name === "NotAllowedError" || error.name === "NotFoundError" ? new Error(t("denied")) : error;
    }
    listening();
    added(await upload(draft, new Blob([blob], { type: "application/octet-stream" }), `${t("by_browser")}, ${timeOf(new Date().toISOString())}`));
  });
  return html`<div class="stack"><${Meter} bar=${bar} label=${t("level")} />
    <div class="row"><${Button} kind="primary" busy=${phase.name !== "idle"} onClick=${go}>${t("record")}<//><${Phase} phase=${phase} /></div></div>`;
}

function ByEvent({ draft, added }) {
  const [clips, error, again] = useFetched((signal) => api.get("teach/clips", { limit: 50 }, { signal }));
  const [busy, setBusy] = useState(null);
  const [taken, setTaken] = useState([]);
  if (error) return html`<${Failure} error=${error} again=${again} />`;
  if (!clips) return html`<${Loading} />`;
  if (!clips.length) return html`<${Notice}>${t("no_past")} ${t("no_clips")}<//>`;
  const take = async (clip) => {
    setBusy(clip.event);
    await api.post(`teach/drafts/${draft.id}/clips`, { event: clip.event }, SLOW).then((next) => { setTaken((before) => [...before, clip.event]); added(next); }, failed);
    setBusy(null);
  };
  return html`<ul class="picks">${clips.map((clip) => html`<li key=${clip.event} class="row apart">
    <span>${clip.label}<br /><small class="muted">${clip.room} · ${dayOf(clip.start)} ${timeOf(clip.start)}${clip.duration ? ` · ${number(clip.duration)} s` : ""}</small></span>
    <${Button} class="small" busy=${busy === clip.event} disabled=${busy !== null || taken.includes(clip.event)} aria-label=${`${t("take")}: ${clip.label}, ${timeOf(clip.start)}`} onClick=${() => take(clip)}>${taken.includes(clip.event) ? t("taken") : t("take")}<//></li>`)}</ul>`;
}

const upload = (draft, blob, title) => api.post(`teach/drafts/${draft.id}/files`, blob, { ...SLOW, query: { title: title.slice(0, 200) } });

function ByFile({ draft, added }) {
  const [busy, setBusy] = useState(false);
  const [over, setOver] = useState(false);
  const input = useRef(null);
  const take = async (files) => {
    setBusy(true);
    for (const file of files) {
      await upload(draft, new Blob([file], { type: "application/octet-stream" }), file.name).then(added, (error) => failed(new Error(error.message)));
    }
    setBusy(false);
    if (input.current) input.current.value = "";
  };
  return html`<div class="dropzone" data-over=${over} onDragOver=${(event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)} onDrop=${(event) => { event.preventDefault(); setOver(false); take([...event.dataTransfer.files]); }}>
    <input id="teach-files" class="visually-hidden" type="file" multiple accept="audio/*,video/*" disabled=${busy} ref=${input} onChange=${(event) => take([...event.target.files])} />
    <label for="teach-files" class="button primary" aria-busy=${busy}>${t("choose")}</label> <span class="muted">${t("drop_here")}</span>
    <p class="hint" role="status">${busy ? t("listening") : t("file_hint")}</p>
  </div>`;
}

const WAYS = { room: ByRoom, browser: ByBrowser, event: ByEvent, file: ByFile };

function Example({ draft, one, drop }) {
  const known = one.score !== null;
  return html`<li class="score ${one.recognised ? "sounding" : ""}">
    <span class="name">${one.title}</span>
    <span class="row">${known ? html`<${Badge} kind=${one.recognised ? "good" : "bad"}>${one.recognised ? t("fits") : t("unfit")} · ${percent(one.score)}<//>` : html`<span class="muted">${t("unknown_yet")}</span>`}
      <${Button} kind="quiet" class="small" aria-label=${`${t("drop")}: ${one.title}`} onClick=${() => drop(one)}>${t("drop")}<//></span>
    ${known && html`<span class="gauge" aria-hidden="true"><span class="bar" ref=${(node) => node?.style.setProperty("--score", one.score)}></span><span class="line" ref=${(node) => node?.style.setProperty("--line", draft.threshold)}></span></span>`}
  </li>`;
}

function Examples({ draft, set, next }) {
  const [way, setWay] = useState("room");
  const drop = (one) => api.delete(`teach/drafts/${draft.id}/examples/${one.number}`, {}, SLOW).then(set, failed);
  const Way = WAYS[way];
  return html`<div class="teach-columns">
    <${Card} title=${t("step_examples")}>
      <p>${t("how_many", { n: draft.examples.length })}</p>
      <fieldset class="segments"><legend class="visually-hidden">${t("source")}</legend>${Object.keys(WAYS).map((name) => html`<label class=${name === way ? "chosen" : ""}><input type="radio" name="way" value=${name} checked=${name === way} onChange=${() => setWay(name)} /><span>${t(`by_${name}`)}</span></label>`)}</fieldset>
      <${Way} draft=${draft} added=${set} />
    <//>
    <${Card} title=${draft.title} actions=${html`<code>${draft.name}</code>`}>
      <ul class="examples" aria-label=${t("step_examples")}>${draft.examples.map((one) => html`<${Example} key=${one.number} draft=${draft} one=${one} drop=${drop} />`)}</ul>
      ${draft.examples.length === 0 && html`<p class="muted">${t("examples", { n: 0 })}</p>`}
      <div aria-live="polite">${draft.verdict && html`<${Verdict} verdict=${draft.verdict} />`}</div>
      <div class="row end"><a class="button quiet" href="#/teach">${t("cancel")}</a><${Button} kind="primary" disabled=${!draft.verdict} onClick=${next}>${t("next")}<//></div>
    <//>
  </div>`;
}

function Try({ draft, back, save, busy }) {
  const { rooms } = useLive();
  const [chosen, choose] = useState("");
  const room = rooms.find((one) => one.id === chosen) ?? rooms.find((one) => one.presence === "online") ?? rooms[0];
  const [heard, setHeard] = useState(0);
  const bar = useRef(null);
  const part = useRef(null);
  const fading = useRef(0);
  useEffect(() => (room ? live.watch(room.id) : undefined), [room?.id]);
  const show = (score) => {
    bar.current?.style.setProperty("--score", score);
    if (part.current) part.current.textContent = percent(score);
  };
  useMessages("teach", (message) => {
    if (message.draft !== draft.id || message.room !== room?.id) return;
    show(message.score);
    clearTimeout(fading.current);
    fading.current = setTimeout(() => show(0), 1500);
    if (message.score >= message.threshold) setHeard(Date.now());
  });
  useEffect(() => {
    if (!heard) return undefined;
    const timer = setTimeout(() => setHeard(0), 4000);
    return () => clearTimeout(timer);
  }, [heard]);
  useEffect(() => {
    show(0);
    return () => clearTimeout(fading.current);
  }, []);
  return html`<${Card} title=${draft.title} class="trying">
    <p>${t("try_text")}</p>
    ${rooms.length > 1 && html`<${Select} label=${t("try_room")} value=${room?.id} options=${rooms.map((one) => [one.id, one.name])} change=${choose} />`}
    ${room && room.presence !== "online" && html`<${Notice} kind="warning">${t("offline")}<//>`}
    <div class="score ${heard ? "sounding" : ""} live-score"><span class="name">${t("score_now")}</span><span class="numeric" ref=${part}></span>
      <span class="gauge" aria-hidden="true"><span class="bar" ref=${bar}></span><span class="line" ref=${(node) => node?.style.setProperty("--line", draft.threshold)}></span></span><span class="muted">${t("threshold")} ${percent(draft.threshold)}</span></div>
    <p class="heard" data-heard=${Boolean(heard)} role="status">${heard ? t("heard") : t("waiting")}</p>
    <${Verdict} verdict=${draft.verdict} />
    <div class="row end"><${Button} kind="quiet" onClick=${back}>${t("back")}<//><${Button} kind="primary" busy=${busy} onClick=${save}>${t("save")}<//></div>
  <//>`;
}

function Wizard() {
  const [draft, set] = useState(null);
  const [step, setStep] = useState("name");
  const [busy, setBusy] = useState(false);
  const kept = useRef(null);
  kept.current = draft;
  useEffect(() => () => { if (kept.current) api.delete(`teach/drafts/${kept.current.id}`).catch(() => {}); }, []);
  const save = async () => {
    setBusy(true);
    try {
      await api.post(`teach/drafts/${draft.id}/save`, undefined, SLOW);
      kept.current = null;
      toast(t("saved", { title: draft.title }));
      location.hash = "#/teach";
    } catch (error) {
      failed(error);
      setBusy(false);
    }
  };
  return html`<${Page} title=${t("add")} lead=${draft ? draft.title : t("lead")}>
    <${Steps} at=${step} />
    ${step === "name" && html`<${Name} begun=${(begun) => { set(begun); setStep("examples"); }} />`}
    ${step === "examples" && html`<${Examples} draft=${draft} set=${set} next=${() => setStep("try")} />`}
    ${step === "try" && html`<${Try} draft=${draft} back=${() => setStep("examples")} save=${save} busy=${busy} />`}
  <//>`;
}

export default function Teach({ rest }) {
  return rest[0] === "new" ? html`<${Wizard} />` : html`<${List} />`;
}
