// The events that the page shows: pages from the history, what comes live, and what other pages change meanwhile.
// Pages are arrays of entries as the API has them ({event, clip, opinion, threshold, …}), the newest first.

import { api } from "../api.js";

export const PAGE = 50; // entries that are fetched, and shown or left out, together

export const unix = (iso) => new Date(iso).getTime() / 1000;

// The query of the API for filters {room, type, text, since, until}.
export function query({ room, type, text, since, until }) {
  return { room: room || undefined, type: type || undefined, text: text || undefined, since, until };
}

// Whether a live event belongs to what is shown.
export function belongs(event, { room, type, text, since, until }) {
  const start = unix(event.start);
  return (!room || event.room === room)
    && (!type || event.event_type === type)
    && (!text || (event.text ?? "").toLowerCase().includes(text.toLowerCase()))
    && (since === undefined || start >= since)
    && (until === undefined || start < until);
}

// An event that has just come, as the API would show it before anything else is known.
export const fresh = (event) => ({
  event,
  subject: event.event_type,
  clip: { state: event.clip ? "coming" : "none", picture: false },
  opinion: null,
  threshold: null,
  life_safety: event.event_type === "smoke_alarm" || event.event_type === "co_alarm",
});

// The same pages with each entry of `id` changed; untouched pages stay the same objects.
export function changed(pages, id, change) {
  return pages.map((page) => (page.some((entry) => entry.event.id === id)
    ? page.map((entry) => (entry.event.id === id ? change(entry) : entry))
    : page));
}

const known = (pages, id) => pages.some((page) => page.some((entry) => entry.event.id === id));

// The same pages with a live event in them: its end completes its beginning.
export function heard(pages, event) {
  if (known(pages, event.id)) return changed(pages, event.id, (entry) => ({ ...entry, event }));
  const entry = fresh(event);
  const [first = [], ...rest] = pages;
  return first.live && first.length < PAGE ? [live([entry, ...first]), ...rest] : [live([entry]), ...pages];
}
const live = (page) => Object.assign(page, { live: true });

// The next older page.
export async function older(filters, next, signal) {
  return api.get("events", { ...query(filters), before: next ?? undefined, limit: PAGE }, { signal });
}

// Days and their midnights in the browser's time zone.
export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
const two = (number) => String(number).padStart(2, "0");
export const dayOfDate = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
export const today = () => dayOfDate(new Date());
export function moved(day, days) {
  const [year, month, date] = day.split("-").map(Number);
  return dayOfDate(new Date(year, month - 1, date + days));
}
export function midnight(day, hour = 0) {
  const [year, month, date] = day.split("-").map(Number);
  return new Date(year, month - 1, date, hour).getTime() / 1000;
}
