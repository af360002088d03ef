// The shell: navigation, log-in, the connection, and which page is shown (by the hash: #/events/ID).

import { api, onLockedOut } from "./api.js";
import { choose, language, LANGUAGES, recalled, remember, texts } from "./i18n.js";
import { live } from "./live.js";
import { Button, Failure, Field, html, Loading, Notice, render, Toasts, useEffect, useLive, useState } from "./ui.js";

const t = texts({
  en: {
    now: "Now", events: "Events", ask: "Ask", teach: "Teach", rules: "Rules", setup: "Set up", health: "Health",
    skip: "Skip to content", menu: "Pages", language: "Language", theme: "Appearance", auto: "Like the system", light: "Light", dark: "Dark",
    lost: "The connection to Kikimimi is lost; it is tried again.", locked: "Log in", password: "Password", enter: "Log in", leave: "Log out",
    tagline: "The house that listens", missing: "There is no such page.", home: "Back to Now", more: "More",
  },
  ja: {
    now: "いま", events: "できごと", ask: "聞く", teach: "教える", rules: "ルール", setup: "設定", health: "状態",
    skip: "本文へ", menu: "ページ", language: "言語", theme: "外観", auto: "システムに合わせる", light: "ライト", dark: "ダーク",
    lost: "Kikimimi との接続が切れました。再接続しています。", locked: "ログイン", password: "パスワード", enter: "ログイン", leave: "ログアウト",
    tagline: "耳をすます家", missing: "このページはありません。", home: "「いま」に戻る", more: "その他",
  },
});

const PAGES = ["now", "events", "ask", "teach", "rules", "setup", "health"];
const ICONS = {
  now: "M3 12h3l3-7 4 14 3-9 2 2h3",
  events: "M5 4h14v16H5zM5 9h14M9 4v5M9 13h6M9 16h4",
  ask: "M4 5h16v11H9l-5 4z",
  teach: "M12 4v11M8 8v7M16 6v9M4 11v4M20 10v5M4 20h16",
  rules: "M5 6h5v5H5zM14 13h5v5h-5zM10 8.5h6.5V13",
  setup: "M4 7h9m4 0h3M4 17h3m4 0h9M15 4.5v5M9 14.5v5",
  health: "M12 20C5 15 3 12 3 8.5A4.5 4.5 0 0 1 12 7a4.5 4.5 0 0 1 9 1.5C21 12 19 15 12 20z",
};
const Icon = ({ name }) => html`<svg viewBox="0 0 24 24" class="icon" aria-hidden="true"><path d=${ICONS[name]} /></svg>`;

const themes = ["auto", "light", "dark"];
function wear(theme) {
  document.documentElement.dataset.theme = theme;
  remember("theme", theme);
  dispatchEvent(new Event("themechange"));
}
wear(themes.includes(recalled("theme")) ? recalled("theme") : "auto");

const route = () => {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  return { name: name || "now", rest };
};
export const link = (name, ...rest) => `#/${[name, ...rest].map(encodeURIComponent).join("/")}`;

function Preferences({ session, leave }) {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme);
  return html`<div class="preferences">
    <label><span class="visually-hidden">${t("language")}</span>
      <select value=${language} onChange=${(event) => choose(event.target.value)}>
        ${Object.entries(LANGUAGES).map(([tag, name]) => html`<option value=${tag} selected=${tag === language} lang=${tag}>${name}</option>`)}
      </select></label>
    <label><span class="visually-hidden">${t("theme")}</span>
      <select value=${theme} onChange=${(event) => { wear(event.target.value); setTheme(event.target.value); }}>
        ${themes.map((one) => html`<option value=${one} selected=${one === theme}>${t(one)}</option>`)}
      </select></label>
    ${session.locked && html`<${Button} kind="quiet" onClick=${leave}>${t("leave")}<//>`}
  </div>`;
}

// Where the navigation lies at the bottom its preferences stand below the page.
const phone = matchMedia("(max-width: 800px)");
function usePhone() {
  const [is, set] = useState(phone.matches);
  useEffect(() => {
    const changed = () => set(phone.matches);
    phone.addEventListener("change", changed);
    return () => phone.removeEventListener("change", changed);
  }, []);
  return is;
}

function Navigation({ current, children }) {
  return html`<nav aria-label=${t("menu")}>
    <a class="brand" href="#/now"><img src="static/icon.svg" alt="" width="32" height="32" /><span>Kikimimi<small>${t("tagline")}</small></span></a>
    <ul>${PAGES.map((name) => html`<li><a href=${link(name)} aria-current=${name === current ? "page" : undefined}><${Icon} name=${name} /><span>${t(name)}</span></a></li>`)}</ul>
    ${children}
  </nav>`;
}

function LogIn({ done }) {
  const [password, set] = useState("");
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const enter = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await api.post("session", { password });
      done();
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  return html`<main class="first"><img src="static/icon.svg" alt="" width="64" height="64" /><h1>Kikimimi</h1>
    <form onSubmit=${enter} class="card">
      <h2>${t("locked")}</h2>
      <${Field} label=${t("password")} error=${error?.message}>
        ${(id, about) => html`<input id=${id} aria-describedby=${about} type="password" autocomplete="current-password" required value=${password} onInput=${(event) => set(event.target.value)} />`}
      <//>
      <button class="button primary" disabled=${busy || !password} aria-busy=${busy}>${t("enter")}</button>
    </form></main>`;
}

function Connection() {
  const { connected } = useLive();
  const [late, set] = useState(false);
  useEffect(() => {
    if (connected) return set(false);
    const timer = setTimeout(() => set(true), 2000);
    return () => clearTimeout(timer);
  }, [connected]);
  return html`<div role="status" class="connection">${late && html`<${Notice} kind="warning">${t("lost")}<//>`}</div>`;
}

function Shown({ name, rest }) {
  const [shown, set] = useState({ name: null, Page: null, error: null });
  useEffect(() => {
    let wanted = true;
    if (!PAGES.includes(name)) return;
    import(`./pages/${name}.js`).then(
      (module) => wanted && set({ name, Page: module.default, error: null }),
      (error) => wanted && set({ name, Page: null, error }),
    );
    return () => { wanted = false; };
  }, [name]);
  if (!PAGES.includes(name)) return html`<main id="main"><h1>${t("missing")}</h1><p><a href="#/now">${t("home")}</a></p></main>`;
  if (shown.name !== name) return html`<main id="main"><${Loading} /></main>`;
  if (shown.error) return html`<main id="main"><${Failure} error=${shown.error} again=${() => location.reload()} /></main>`;
  return html`<${shown.Page} rest=${rest} />`;
}

function App() {
  const [session, setSession] = useState(null);
  const [error, setError] = useState(null);
  const [where, setWhere] = useState(route());
  const small = usePhone();
  const look = () => api.get("session").then((found) => { setSession(found); setError(null); }, setError);
  useEffect(() => {
    const moved = () => { setWhere(route()); scrollTo(0, 0); };
    addEventListener("hashchange", moved);
    onLockedOut(() => setSession((before) => before && { ...before, logged_in: false }));
    look();
    return () => removeEventListener("hashchange", moved);
  }, []);
  useEffect(() => {
    if (!session?.logged_in) return live.stop();
    live.start();
    // The very first visit, without a configuration, begins with the guide; it never opens by itself again.
    if (!location.hash) api.get("setup").then(({ first }) => { if (first && !location.hash) location.hash = link("setup", "guide"); }, () => {});
  }, [session?.logged_in]);
  if (error && !session) return html`<main class="first"><h1>Kikimimi</h1><${Failure} error=${error} again=${look} /></main>`;
  if (!session) return html`<main class="first" aria-busy="true"><h1>Kikimimi</h1><${Loading} /></main>`;
  if (!session.logged_in) return html`<${LogIn} done=${look} />`;
  const preferences = html`<${Preferences} session=${session} leave=${() => api.delete("session").then(look, look)} />`;
  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.querySelector("main h1")?.focus(); }}>${t("skip")}</a>
    <${Navigation} current=${where.name}>${!small && preferences}<//>
    <div class="content"><${Connection} /><${Shown} ...${where} />${small && preferences}</div>
    <${Toasts} />`;
}

render(html`<${App} />`, document.getElementById("app"));
