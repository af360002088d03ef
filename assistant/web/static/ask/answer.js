// What was answered: words, times and sounds that play when they are clicked.

import { percent } from "../i18n.js";
import { html, Notice } from "../ui.js";
import { Time, Words } from "./player.js";
import { clipName, t } from "./texts.js";

// Times in a text: 0:28–0:56 before what was said of a part of a long recording, <|2.33|> as the model writes them.
const TIMES = /(\d{1,2}:\d{2}[–-]\d{1,2}:\d{2}|<\|\d{1,3}\.\d{1,2}\|>)/;
const seconds = (text) => {
  const [minutes, rest] = text.split(":");
  return 60 * Number(minutes) + Number(rest);
};

function Prose({ text, sound }) {
  if (!sound) return html`<p class="prose">${text}</p>`;
  return html`<p class="prose">${text.split(TIMES).map((part, i) => {
    if (i % 2 === 0) return part;
    if (part.startsWith("<")) return html`<${Time} sound=${sound} start=${Number(part.slice(2, -2))} end=${null}>${part.slice(2, -2)} s<//>`;
    const [start, end] = part.split(/[–-]/).map(seconds);
    return html`<${Time} sound=${sound} start=${start} end=${end}>${part}<//>`;
  })}</p>`;
}

function Sounds({ sounds, sound }) {
  if (!sounds.length) return html`<p>${t("no_sounds")}</p>`;
  return html`<ul class="sounds">${sounds.map(({ label, score, spans }) => html`<li key=${label}>
    <span class="label" lang="en">${label}</span>
    <span class="bar" aria-hidden="true"><span ref=${(bar) => { if (bar) bar.style.width = `${100 * score}%`; }}></span></span>
    <span class="numeric">${percent(score)}</span>
    ${sound && html`<span class="times">${spans.slice(0, 6).map(([start, end]) => html`<${Time} key=${start} sound=${sound} start=${start} end=${end} />`)}${spans.length > 6 && "…"}</span>`}
  </li>`)}</ul>`;
}

function Found({ found, sound, wanted }) {
  return html`${found.spans.length
    ? html`<ul class="found">${found.spans.map((span) => html`<li key=${span.start}>${sound && html`<${Time} sound=${sound} start=${Math.max(0, span.start - 0.1)} end=${span.end + 0.1} />`} <strong>${span.text ?? wanted}</strong></li>`)}</ul>`
    : html`<p>${t("not_found", { text: wanted })}</p>`}
    ${found.heard && html`<p class="muted">${t("heard")} ${found.heard}</p>`}`;
}

function One({ turn, told, sound }) {
  if (told.sounds) return html`<${Sounds} sounds=${told.sounds} sound=${sound} />`;
  if (told.spans) return html`<${Found} found=${told} sound=${sound} wanted=${turn.options.text} />`;
  if (told.words?.length && sound) return html`<${Words} sound=${sound} words=${told.words} language=${told.language} />`;
  if (told.text === "") return html`<p>${t("no_speech")}</p>`;
  if (told.text) return html`<${Prose} text=${told.text} sound=${sound} />`;
  return null;
}

// `sounds`: the Sound of each clip that is still there, by its id; `clips` likewise.
export function Answer({ turn, clips, sounds }) {
  const told = turn.ended && turn.ended !== "failed" ? turn.data?.clips : null;
  const parts = told?.map((one, i) => One({ turn, told: one, sound: sounds[turn.clips[i]] }));
  const only = turn.clips.length === 1 ? sounds[turn.clips[0]] : null;
  const structured = parts?.length && parts.every(Boolean);
  return html`${structured
    ? parts.map((part, i) => html`<div key=${i}>${parts.length > 1 && html`<h3>${clipName(clips[turn.clips[i]])}</h3>`}${part}</div>`)
    : turn.text && html`<${Prose} text=${turn.text} sound=${turn.ended ? only : null} />`}
    ${turn.ended === "end" && !turn.text && html`<p class="muted">${t("nothing")}</p>`}
    ${turn.ended === "length" && html`<p class="hint">${t("ended_length")}</p>`}
    ${turn.ended === "stopped" && html`<p class="hint">${t("ended_stopped")}</p>`}
    ${turn.problem && html`<${Notice} kind="bad">${turn.problem}<//>`}`;
}
