// Preact, and the widgets that all pages share.

import { html, useCallback, useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState, render } from "./vendor/preact-htm.js";
import { ago, texts } from "./i18n.js";
import { live } from "./live.js";

export { html, render, useCallback, useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState };

const t = texts({
  en: { close: "Close", cancel: "Cancel", loading: "Loading…", retry: "Try again", failed: "That did not work", dismiss: "Dismiss" },
  ja: { close: "閉じる", cancel: "キャンセル", loading: "読み込み中…", retry: "もう一度", failed: "うまくいきませんでした", dismiss: "消す" },
});

// A page: its heading (which gets the focus when the page is opened), what stands beside it, and its content.
export function Page({ title, lead, actions, children }) {
  const heading = useRef(null);
  useEffect(() => {
    document.title = `${title} · Kikimimi`;
    if (document.activeElement === document.body || document.activeElement?.closest("nav")) {
      heading.current?.focus({ preventScroll: true });
    }
  }, [title]);
  return html`<main id="main">
    <header class="page-head">
      <div><h1 tabindex="-1" ref=${heading}>${title}</h1>${lead && html`<p class="muted">${lead}</p>`}</div>
      ${actions && html`<div class="row">${actions}</div>`}
    </header>
    ${children}
  </main>`;
}

export const Card = ({ title, actions, children, class: more = "", level = 2, ...rest }) => html`<section class="card ${more}" ...${rest}>
  ${title && html`<header class="card-head"><${`h${level}`}>${title}<//>${actions && html`<div class="row">${actions}</div>`}</header>`}
  ${children}
</section>`;

// kind: primary, quiet, danger or nothing. `busy` while what it started runs.
export const Button = ({ kind = "", busy = false, disabled = false, children, class: more = "", ...rest }) =>
  html`<button type="button" class="button ${kind} ${more}" disabled=${disabled || busy} aria-busy=${busy} ...${rest}>${children}</button>`;

export const Switch = ({ label, on, change, disabled = false, hidden = false }) => html`<label class="switch">
  <input type="checkbox" role="switch" checked=${on} disabled=${disabled} onChange=${(event) => change(event.target.checked)} />
  <span class="track" aria-hidden="true"></span>
  <span class=${hidden ? "visually-hidden" : ""}>${label}</span>
</label>`;

let counter = 0;
export const useId = (prefix = "id") => useMemo(() => `${prefix}-${(counter += 1)}`, []);

// A labelled control; `children` is a function that gets the id (and that of the hint) to put on it.
export function Field({ label, hint, error, children }) {
  const id = useId("field");
  const about = hint || error ? `${id}-about` : undefined;
  return html`<div class="field">
    <label for=${id}>${label}</label>
    ${children(id, about)}
    ${(error || hint) && html`<p id=${about} class=${error ? "error" : "hint"} role=${error ? "alert" : undefined}>${error || hint}</p>`}
  </div>`;
}

export const Select = ({ label, value, options, change, ...rest }) => html`<${Field} label=${label}>
  ${(id) => html`<select id=${id} value=${value} onChange=${(event) => change(event.target.value)} ...${rest}>
    ${options.map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}
  </select>`}
<//>`;

export const Badge = ({ kind = "", children }) => html`<span class="badge ${kind}">${children}</span>`;

// kind: info, good, warning or bad
export const Notice = ({ kind = "info", title, children, action }) => html`<div class="notice ${kind}" role=${kind === "bad" ? "alert" : "status"}>
  <div>${title && html`<strong>${title}</strong>`} ${children}</div>
  ${action}
</div>`;

export const Empty = ({ title, children }) => html`<div class="empty"><p><strong>${title}</strong></p>${children}</div>`;

export const Loading = () => html`<p class="muted loading" role="status">${t("loading")}</p>`;

// Something fetched: [value, error, again]. `fetching` gets an AbortSignal; it runs anew when `wanted` changes.
export function useFetched(fetching, wanted = []) {
  const [state, set] = useState({ value: undefined, error: null });
  const [round, again] = useReducer((n) => n + 1, 0);
  useEffect(() => {
    const aborting = new AbortController();
    fetching(aborting.signal).then(
      (value) => !aborting.signal.aborted && set({ value, error: null }),
      (error) => !aborting.signal.aborted && set((before) => ({ ...before, error })),
    );
    return () => aborting.abort();
  }, [...wanted, round]);
  return [state.value, state.error, again];
}

export const Failure = ({ error, again }) => html`<${Notice} kind="bad" action=${again && html`<${Button} onClick=${again}>${t("retry")}<//>`}>${error.message}<//>`;

// The state that the daemon tells: {connected, version, listening, rooms}.
export function useLive() {
  const [, changed] = useReducer((n) => n + 1, 0);
  useEffect(() => live.on("state", changed), []);
  return live.state;
}

export function useMessages(type, listener) {
  const latest = useRef(listener);
  latest.current = listener;
  useEffect(() => live.on(type, (message) => latest.current(message)), [type]);
}

// How long ago, kept true once a minute.
export function Ago({ iso }) {
  const [, tick] = useReducer((n) => n + 1, 0);
  useEffect(() => {
    const timer = setInterval(tick, 30000);
    return () => clearInterval(timer);
  }, []);
  return html`<time datetime=${iso} title=${new Date(iso).toLocaleString()}>${ago(iso)}</time>`;
}

// A modal dialog (the browser's own: it keeps the focus, Escape closes it).
export function Dialog({ title, open, close, children, actions }) {
  const dialog = useRef(null);
  const id = useId("dialog");
  useEffect(() => {
    if (open && !dialog.current.open) dialog.current.showModal();
    if (!open && dialog.current.open) dialog.current.close();
  }, [open]);
  return html`<dialog ref=${dialog} aria-labelledby=${id} onClose=${close}>
    ${open && html`<h2 id=${id}>${title}</h2>${children}<div class="row end">${actions ?? html`<${Button} onClick=${close}>${t("close")}<//>`}</div>`}
  </dialog>`;
}

export function Confirm({ title, open, text, yes, kind = "danger", done }) {
  return html`<${Dialog} title=${title} open=${open} close=${() => done(false)} actions=${html`
    <${Button} kind="quiet" onClick=${() => done(false)}>${t("cancel")}<//>
    <${Button} kind=${kind} onClick=${() => done(true)}>${yes}<//>`}><p>${text}</p><//>`;
}

// Short messages at the bottom, read out by screen readers.
const shown = new Set();
export function toast(text, { kind = "good", action, actionText } = {}) {
  const one = { text: String(text), kind, action, actionText };
  shown.forEach((show) => show(one));
}
export const failed = (error) => toast(error?.message || t("failed"), { kind: "bad" });

export function Toasts() {
  const [items, set] = useState([]);
  useEffect(() => {
    const show = (one) => {
      set((before) => [...before.slice(-2), one]);
      setTimeout(() => set((before) => before.filter((other) => other !== one)), one.action ? 10000 : 5000);
    };
    shown.add(show);
    return () => shown.delete(show);
  }, []);
  return html`<div class="toasts" role="status" aria-live="polite">
    ${items.map((one) => html`<div class="toast ${one.kind}">
      <span>${one.text}</span>
      ${one.action && html`<button type="button" class="link" onClick=${() => { set((before) => before.filter((other) => other !== one)); one.action(); }}>${one.actionText}</button>`}
    </div>`)}
  </div>`;
}

// uPlot, fetched by the first chart.
let plotting = null;
export function loadPlot() {
  plotting ??= new Promise((resolve, reject) => {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = "static/vendor/uPlot.min.css";
    const script = document.createElement("script");
    script.src = "static/vendor/uPlot.iife.min.js";
    script.onload = () => resolve(window.uPlot);
    script.onerror = () => reject(new Error("uPlot"));
    document.head.append(style, script);
  });
  return plotting;
}

export const nonce = () => document.querySelector('meta[name="csp-nonce"]').content; // for styles that a library makes
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
export const copy = async (text) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea"); // not a secure context
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
};
