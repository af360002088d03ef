// Ask: chats about recordings, and the practice of a language.

import { api } from "../api.js";
import { ago, texts } from "../i18n.js";
import { Confirm, failed, Failure, html, Loading, Page, useEffect, useFetched, useMessages, useState } from "../ui.js";
import { Chat } from "../ask/chat.js";
import { Practice } from "../ask/practice.js";
import { Icon } from "../ask/sources.js";

const t = texts({
  en: {
    title: "Ask", lead: "Questions about recordings, answered at home", practice_lead: "Speak, and see what was understood", views: "Views", chat: "Chats", practice: "Language practice", new_chat: "New chat", chats: "Chats",
    none: "No chats yet", untitled: "New recording", remove: "Delete the chat “{name}”", sure: "The chat and its recordings are forgotten for good.", yes: "Delete",
  },
  ja: {
    title: "聞く", lead: "録音についての質問に、家の中で答えます", practice_lead: "話して、どう聞こえたかを確かめます", views: "表示", chat: "チャット", practice: "言語の練習", new_chat: "新しいチャット", chats: "チャット一覧",
    none: "チャットはまだありません", untitled: "新しい録音", remove: "チャット「{name}」を削除", sure: "チャットと録音が完全に消えます。", yes: "削除",
  },
});

const style = document.createElement("link");
style.rel = "stylesheet";
style.href = new URL("../ask/ask.css", import.meta.url);
document.head.append(style);

const addressOf = (id) => `#/ask/chat/${encodeURIComponent(id)}`;

export default function Ask({ rest }) {
  const [abilities, problem, again] = useFetched((signal) => api.get("ask", {}, { signal }));
  const loading = problem?.status === 409; // a model is still loading: the daemon said so after 15 s
  useEffect(() => {
    if (!loading) return;
    const timer = setTimeout(again, 1000);
    return () => clearTimeout(timer);
  }, [problem]);
  // The audio language model came, or went.
  useMessages("health", ({ figures }) => { if (abilities && figures.llm_status && figures.llm_status !== abilities.status) again(); });
  const answered = () => { if (abilities.status !== "none" && abilities.status !== "ready") again(); };
  const practice = rest[0] === "practice";
  const views = html`<div class="segments" role="group" aria-label=${t("views")}>
    <a href="#/ask" aria-current=${practice ? undefined : "true"}>${t("chat")}</a><a href="#/ask/practice" aria-current=${practice ? "true" : undefined}>${t("practice")}</a></div>`;
  return html`<${Page} title=${practice ? t("practice") : t("title")} lead=${practice ? t("practice_lead") : t("lead")} actions=${views}>
    ${problem && !loading ? html`<${Failure} error=${problem} again=${again} />` : !abilities ? html`<${Loading} />` : practice ? html`<${Practice} abilities=${abilities} />` : html`<${Chats} rest=${rest} abilities=${abilities} answered=${answered} />`}
  <//>`;
}

function Chats({ rest, abilities, answered }) {
  const [chats, problem, again] = useFetched((signal) => api.get("ask/chats", {}, { signal }));
  const [made, setMade] = useState(null); // the id of the chat that is shown, where the address did not name it at first
  const [round, setRound] = useState(0);
  const [doomed, doom] = useState(null);
  const [kind, id] = rest;
  const current = kind === "chat" ? id : made;
  const begin = () => { // on the way to #/ask, whose key makes a new chat; who is there already needs another key
    setMade(null);
    if (!kind) setRound(round + 1);
  };
  const end = async (yes) => {
    doom(null);
    if (!yes) return;
    try {
      await api.delete(`ask/chats/${doomed.id}`);
      if (doomed.id === current) {
        begin();
        location.hash = "#/ask";
      }
    } catch (error) {
      failed(error);
    }
    again();
  };
  const listed = (chats ?? []).filter((chat) => chat.kind === "chat");
  return html`<div class="ask">
    <aside aria-label=${t("chats")}>
      <a class="button" href="#/ask" onClick=${begin}><${Icon} name="plus" />${t("new_chat")}</a>
      ${problem && html`<${Failure} error=${problem} again=${again} />`}
      ${chats && (listed.length ? html`<ul>${listed.map((chat) => {
        const name = chat.title || t("untitled");
        return html`<li key=${chat.id} class=${chat.id === current ? "current" : ""}>
          <a href=${addressOf(chat.id)} aria-current=${chat.id === current ? "true" : undefined}><span>${name}</span><small class="muted">${ago(chat.used)}</small></a>
          <button type="button" class="round small bare" aria-label=${t("remove", { name })} onClick=${() => doom(chat)}><${Icon} name="cross" /></button>
        </li>`;
      })}</ul>` : html`<p class="muted none">${t("none")}</p>`)}
    </aside>
    <${Chat} key=${`${rest.join("/")} ${round}`} id=${kind === "chat" ? id : null} event=${kind === "event" ? id : null} abilities=${abilities} changed=${() => { again(); answered(); }}
      made=${(begun) => { setMade(begun); history.replaceState(null, "", addressOf(begun)); }} />
    <${Confirm} title=${doomed ? t("remove", { name: doomed.title || t("untitled") }) : ""} open=${doomed !== null} text=${t("sure")} yes=${t("yes")} done=${end} />
  </div>`;
}
