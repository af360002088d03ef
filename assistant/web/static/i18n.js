// Texts in English and Japanese. Each module brings its own: const t = texts({en: {...}, ja: {...}}); t("key", {n: 3}).
// A text is a string with {n} for values, or a function of the values.

export const LANGUAGES = { en: "English", ja: "日本語" };
export const known = []; // every dictionary, so that a test can compare their keys

const stored = (key) => {
  try {
    return localStorage.getItem(key);
  } catch {
    return null; // a browser that keeps nothing
  }
};

export function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // kept until the page is closed
  }
}

export const recalled = stored;

const wished = [stored("language"), ...navigator.languages].map((tag) => (tag ?? "").slice(0, 2));
export const language = wished.find((tag) => tag in LANGUAGES) ?? "en";
document.documentElement.lang = language;

export function choose(tag) {
  remember("language", tag);
  location.reload();
}

export function texts(dictionary) {
  known.push(dictionary);
  const words = dictionary[language];
  return (key, values = {}) => {
    const text = words[key] ?? dictionary.en[key];
    if (text === undefined) return key;
    if (typeof text === "function") return text(values);
    return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
  };
}

const numbers = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });
export const number = (value) => (value == null ? "–" : numbers.format(value));
export const percent = (value) => (value == null ? "–" : `${Math.round(100 * value)} %`);

const clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(language, { weekday: "short", month: "short", day: "numeric" });
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto", style: "short" });
export const timeOf = (iso) => (iso ? clock.format(new Date(iso)) : "–");
export const dayOf = (iso) => (iso ? day.format(new Date(iso)) : "–");

export function ago(iso, now = Date.now()) {
  const seconds = (new Date(iso).getTime() - now) / 1000;
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(seconds) >= size) return relative.format(Math.trunc(seconds / size), unit);
  }
  return relative.format(Math.trunc(seconds), "second");
}
