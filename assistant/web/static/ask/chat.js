// One chat: its recordings, what was asked, and what was answered, piece by piece.

import { api, stream } from "../api.js";
import { dayOf, texts, timeOf } from "../i18n.js";
import { Button, Dialog, failed, Failure, Field, html, Loading, Notice, Select, useEffect, useLayoutEffect, useLive, useMemo, useRef, useState } from "../ui.js";
import { Answer } from "./answer.js";
import { available } from "./microphone.js";
import { Player, PlayButton } from "./player.js";
import { Icon, Insecure, MicrophoneButton, RoomForm, UploadButton, useHandedFocus } from "./sources.js";
import { soundName } from "../words.js";
import { soundOfClip } from "./sounds.js";
import { choices, clipName, nameOf, t } from "./texts.js";

const own = texts({
  en: {
    question: "Your question", placeholder: "Ask anything about the recordings…", send: "Ask", answering: "The answer is being made…", elsewhere: "This answer is being made for another page.",
    look: "Look again", recordings: "Recordings", about: "Ask about {name}", remove: "Remove {name}", add: "Add a recording", tasks: "Tasks", more: "More",
    past: "A past event", past_title: "Take the clip of an event", no_past: "No event has a kept clip. Which ones are kept is told by “clips” in the configuration.", take: "Take",
    to: "Translate into", words: "Words to find", go: "Go", tick: "Tick a recording first.", history: "Questions and answers",
    start: "Ask about what is heard", start_text: "Record something, upload a file or take what a room hears, then choose a task or ask in your own words. Recordings stay in memory and are forgotten after a day.",
    small: "Without an audio language model Kikimimi writes down speech, finds words, translates into English and names sounds. Free questions, descriptions and emotion need profile: hybrid, qwen or remote; “kikimimi doctor” tells what fits this machine.",
    loading: "The audio language model is still loading: answers wait for it.", unwell: "The audio language model is out of order: {status}.",
  },
  ja: {
    question: "質問", placeholder: "録音について何でも聞けます…", send: "聞く", answering: "回答を作成しています…", elsewhere: "この回答は別の画面のために作成中です。",
    look: "再読み込み", recordings: "録音", about: "{name}について聞く", remove: "{name}を削除", add: "録音を追加", tasks: "できること", more: "その他",
    past: "過去のできごと", past_title: "できごとの録音を使う", no_past: "録音が残っているできごとはありません。何を残すかは設定ファイルの clips で決まります。", take: "使う",
    to: "翻訳先", words: "探す言葉", go: "実行", tick: "録音を選んでください。", history: "質問と回答",
    start: "聞こえたものについて聞く", start_text: "録音する、ファイルを選ぶ、部屋の音を使う――そのあと、やりたいことを選ぶか、自由に質問してください。録音はメモリにだけ置かれ、1日で消えます。",
    small: "音声言語モデルがない構成では、文字起こし、言葉探し、英語への翻訳、音の名前がわかります。自由な質問、音の説明、感情には profile: hybrid、qwen または remote が必要です。この機器で動くかは「kikimimi doctor」で確認できます。",
    loading: "音声言語モデルを読み込んでいます。回答は読み込みのあとになります。", unwell: "音声言語モデルが使えません：{status}",
  },
});

const FIRST = ["transcribe", "translate", "caption", "emotion", "find", "tag"]; // the others are under More
const FORMS = { translate: "to", find: "text" };

// `id` null: the chat is made by what is first put into it; `made(id)` is told then, `changed()` when the list is no more true.
export function Chat({ id, event, abilities, made, changed }) {
  const [chat, setChat] = useState(id || event ? null : { id: null, turns: [], clips: [] });
  const [error, setError] = useState(null);
  const [ticked, setTicked] = useState(new Set());
  const [busy, setBusy] = useState(false);
  const [asking, setAsking] = useState(false);
  const identity = useRef(id);
  const beginning = useRef(null);
  const aborting = useRef(new AbortController());
  const kept = useRef({});
  const opened = useRef(false);

  const load = () => api.get(`ask/chats/${identity.current}`).then((found) => {
    setChat(found);
    setTicked(new Set(fresh(found)));
  }, setError);
  useEffect(() => {
    if (id) load();
    if (event) add((chat) => api.post(`ask/chats/${chat}/clips/event`, { event }), { first: true });
    return () => {
      aborting.current.abort(); // what is being answered is stopped: nobody reads it any more
      Object.values(kept.current).forEach((sound) => sound.close());
    };
  }, []);

  const clips = useMemo(() => Object.fromEntries((chat?.clips ?? []).map((clip) => [clip.id, clip])), [chat?.clips]);
  const sounds = useMemo(() => {
    for (const clip of Object.keys(clips)) kept.current[clip] ??= soundOfClip(identity.current, clip);
    return Object.fromEntries(Object.keys(clips).map((clip) => [clip, kept.current[clip]]));
  }, [clips]);

  const chatOf = () => {
    if (identity.current) return Promise.resolve(identity.current);
    beginning.current ??= api.post("ask/chats", {}).then((begun) => {
      identity.current = begun.id;
      made(begun.id);
      return begun.id;
    }).finally(() => { beginning.current = null; });
    return beginning.current;
  };
  const keep = (clip) => {
    setChat((before) => ({ ...(before ?? { turns: [], clips: [] }), id: identity.current, clips: [...(before?.clips ?? []), clip] }));
    setTicked((before) => new Set([...before, clip.id]));
    changed();
  };
  const add = async (adding, { first = false } = {}) => {
    setBusy(true);
    try {
      keep(await adding(await chatOf()));
    } catch (problem) {
      if (first) setError(problem);
      else failed(problem);
    }
    setBusy(false);
  };
  const send = (file, origin) => add((chat) => api.post(`ask/chats/${chat}/clips?${new URLSearchParams({ name: file.name ?? "", origin })}`, asBytes(file), { patience: 120000 }));
  const remove = async (clip) => {
    try {
      await api.delete(`ask/chats/${identity.current}/clips/${clip.id}`);
      kept.current[clip.id]?.close();
      delete kept.current[clip.id];
      setChat((before) => ({ ...before, clips: before.clips.filter((one) => one.id !== clip.id) }));
      setTicked((before) => new Set([...before].filter((one) => one !== clip.id)));
      changed();
    } catch (problem) {
      failed(problem);
    }
  };
  const stop = () => api.post(`ask/chats/${identity.current}/stop`).catch(failed);

  const change = (turn) => setChat((before) => {
    const known = before.turns.some((one) => one.id === turn.id);
    return { ...before, turns: known ? before.turns.map((one) => (one.id === turn.id ? { ...one, ...turn } : one)) : [...before.turns, turn] };
  });
  const ask = async (question) => {
    const all = (chat?.clips ?? []).map((clip) => clip.id);
    const alone = all.length === 1 && question.task !== "ask"; // then there is nothing to tick
    const about = alone ? all : all.filter((clip) => ticked.has(clip));
    if (!about.length && question.task !== "ask") return failed(new Error(own("tick")));
    setAsking(true);
    let turn = null;
    try {
      const path = `ask/chats/${await chatOf()}/ask`;
      await stream("POST", path, { body: { ...question, clips: about }, signal: aborting.current.signal }, (kind, told) => {
        if (kind === "piece") {
          turn = { ...turn, text: turn.text + told.text };
          change({ id: turn.id, text: turn.text });
        } else {
          if (!turn && question.task === "ask") setTicked(new Set()); // the model remembers them
          turn = told;
          change(turn);
        }
      });
      if (turn && !turn.ended) change({ id: turn.id, ended: "stopped" });
      changed();
    } catch (problem) {
      if (problem.name !== "AbortError") {
        failed(problem);
        if (turn) change({ id: turn.id, ended: "failed", problem: problem.message });
      }
    }
    setAsking(false);
    return turn;
  };
  const last = chat?.turns.at(-1);
  useLayoutEffect(() => { // the end of the chat is what is looked at
    const near = document.documentElement.scrollHeight - innerHeight - scrollY < 240;
    if (last && (!opened.current || (asking && near))) scrollTo(0, document.documentElement.scrollHeight);
    opened.current ||= Boolean(chat);
  }, [chat === null, last?.id, last?.text, last?.ended]);

  if (error) return html`<${Notice} kind="bad">${error.message}<//>`;
  if (!chat) return html`<${Loading} />`;
  const elsewhere = !asking && last && !last.ended;
  return html`<div class="chat" onKeyDown=${(pressed) => pressed.key === "Escape" && asking && stop()}>
    ${!chat.turns.length && !chat.clips.length && html`<div class="welcome"><${Icon} name="room" /><h2>${own("start")}</h2><p class="muted">${own("start_text")}</p></div>`}
    ${chat.turns.length > 0 && html`<div role="log" aria-label=${own("history")}><ol class="turns">
      ${chat.turns.map((turn) => html`<${Turn} key=${turn.id} turn=${turn} clips=${clips} sounds=${sounds} />`)}
    </ol></div>`}
    ${elsewhere && html`<${Notice} action=${html`<${Button} onClick=${load}>${own("look")}<//>`}>${own("elsewhere")}<//>`}
    <${Composer} ...${{ chat, clips, sounds, ticked, setTicked, busy, asking, abilities, ask, stop, send, remove, chatOf, keep, add }} />
  </div>`;
}

// A recording that is sent as what it is; never as JSON, which has a smaller limit.
const asBytes = (file) => new Blob([file], { type: "application/octet-stream" });

// Recordings that nothing was asked about are those that the next question is about.
function fresh(chat) {
  const asked = new Set(chat.turns.flatMap((turn) => turn.clips));
  return chat.clips.map((clip) => clip.id).filter((clip) => !asked.has(clip));
}

function Turn({ turn, clips, sounds }) {
  const given = turn.task === "translate" ? t("into", { language: nameOf(turn.options.to) }) : turn.task === "find" ? `“${turn.options.text}”` : "";
  return html`<li class="turn">
    <div class="asked">
      <p>${turn.task === "ask" ? turn.options.text : html`<strong>${t(`task_${turn.task}`)}</strong> ${given}`}</p>
      ${turn.clips.length > 0 && html`<ul class="chips">${turn.clips.map((clip) => html`<li key=${clip} class="chip">${sounds[clip] && html`<${PlayButton} small sound=${sounds[clip]} name=${clipName(clips[clip])} />`}<span>${clipName(clips[clip])}</span></li>`)}</ul>`}
    </div>
    <div class="answer" aria-busy=${!turn.ended}>
      <${Answer} turn=${turn} clips=${clips} sounds=${sounds} />
      ${!turn.ended && html`<p class="muted working"><span class="dots" aria-hidden="true"></span>${own("answering")}</p>`}
      ${turn.model && html`<p class="hint">${t("by", { model: turn.model })} · <time datetime=${turn.asked}>${timeOf(turn.asked)}</time></p>`}
    </div>
  </li>`;
}

function Composer({ chat, clips, sounds, ticked, setTicked, busy, asking, abilities, ask, stop, send, remove, chatOf, keep, add }) {
  const [form, setForm] = useState(null); // room, translate or find
  const [text, setText] = useState("");
  const [past, setPast] = useState(false);
  const box = useHandedFocus(asking);
  const tasks = Object.fromEntries(abilities.tasks.map((task) => [task.name, task]));
  const free = tasks.ask?.able;
  const run = (question) => {
    const lacks = tasks[question.task]?.lacks;
    if (lacks) return failed(new Error(t(`lacks_${lacks}`)));
    setForm(null);
    return ask(question);
  };
  const choose = (name) => {
    const lacks = tasks[name]?.lacks;
    if (lacks) return failed(new Error(t(`lacks_${lacks}`)));
    if (name in FORMS) return setForm(form === name ? null : name);
    return run({ task: name });
  };
  const send_question = () => {
    const question = text.trim();
    if (!question || asking) return;
    setText("");
    run({ task: "ask", text: question });
  };
  const others = abilities.tasks.filter((task) => task.able && !FIRST.includes(task.name) && task.name !== "ask");
  const tick = (clip, on) => setTicked((before) => new Set(on ? [...before, clip] : [...before].filter((one) => one !== clip)));
  return html`<section class="card composer" aria-label=${own("question")}>
    ${chat.clips.length > 0 && html`<ul class="clips" aria-label=${own("recordings")}>${chat.clips.map((clip) => html`<li key=${clip.id}>
      <input type="checkbox" aria-label=${own("about", { name: clipName(clip) })} checked=${ticked.has(clip.id)} onChange=${(event) => tick(clip.id, event.target.checked)} />
      <span class="name" title=${clipName(clip)}>${clipName(clip)}</span>
      <${Player} sound=${sounds[clip.id]} name=${clipName(clip)} seconds=${clip.seconds}>
        <button type="button" class="round small bare" aria-label=${own("remove", { name: clipName(clip) })} onClick=${() => remove(clip)}><${Icon} name="cross" /></button>
      <//>
    </li>`)}</ul>`}
    <div class="row" role="group" aria-label=${own("add")}>
      <${MicrophoneButton} busy=${busy} done=${(blob) => send(blob, "microphone")} />
      <${UploadButton} busy=${busy} done=${(file) => send(file, "upload")} />
      <${Button} class="small" aria-expanded=${form === "room"} onClick=${() => setForm(form === "room" ? null : "room")}><${Icon} name="room" />${t("from_room")}<//>
      <${Button} class="small" onClick=${() => setPast(true)}><${Icon} name="event" />${own("past")}<//>
    </div>
    ${!available() && !chat.turns.length && html`<${Insecure} />`}
    ${form === "room" && html`<${RoomForm} chatOf=${chatOf} stop=${stop} done=${(clip) => { keep(clip); setForm(null); }} />`}
    ${chat.clips.length > 0 && html`<div class="row tasks" role="group" aria-label=${own("tasks")}>
      ${FIRST.map((name) => html`<${Button} key=${name} class="small ${tasks[name]?.able ? "" : "lacking"}" kind="outline" disabled=${asking} title=${tasks[name]?.lacks ? t(`lacks_${tasks[name].lacks}`) : undefined}
        aria-expanded=${name in FORMS ? form === name : undefined} onClick=${() => choose(name)}>${t(`task_${name}`)}${name in FORMS ? "…" : ""}<//>`)}
      ${others.length > 0 && html`<label><span class="visually-hidden">${own("more")}</span><select class="small" disabled=${asking} value="" onChange=${(event) => { const name = event.target.value; event.target.value = ""; if (name) choose(name); }}>
        <option value="">${own("more")}…</option>${others.map((task) => html`<option value=${task.name}>${t(`task_${task.name}`)}</option>`)}</select></label>`}
    </div>`}
    ${form === "translate" && html`<${Translate} abilities=${abilities} run=${(to) => run({ task: "translate", to })} />`}
    ${form === "find" && html`<${Find} run=${(words) => run({ task: "find", text: words })} />`}
    ${free ? html`<form class="question" onSubmit=${(event) => { event.preventDefault(); send_question(); }}>
      <label><span class="visually-hidden">${own("question")}</span><textarea rows="2" maxlength="2000" placeholder=${own("placeholder")} value=${text} onInput=${(event) => setText(event.target.value)}
        onKeyDown=${(event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send_question(); } }}></textarea></label>
      <span ref=${box}>${asking ? html`<${Button} kind="danger" onClick=${stop}>${t("stop")}<//>` : html`<button class="button primary" disabled=${!text.trim()}><${Icon} name="send" />${own("send")}</button>`}</span>
    </form>` : html`<div ref=${box} class="row apart">${!chat.turns.length && html`<p class="hint small-model">${own("small")}</p>`}${asking && html`<${Button} kind="danger" onClick=${stop}>${t("stop")}<//>`}</div>`}
    ${abilities.status === "loading" && html`<${Notice}>${own("loading")}<//>`}
    ${["unwell", "failed", "stopped"].includes(abilities.status) && html`<${Notice} kind="warning">${own("unwell", { status: abilities.status })}<//>`}
    <${Past} open=${past} close=${() => setPast(false)} take=${(event) => { setPast(false); add((chat) => api.post(`ask/chats/${chat}/clips/event`, { event })); }} />
  </section>`;
}

function Translate({ abilities, run }) {
  const [to, setTo] = useState(abilities.into.includes(document.documentElement.lang) ? document.documentElement.lang : abilities.into[0]);
  return html`<form class="form-row" onSubmit=${(event) => { event.preventDefault(); run(to); }}>
    <${Select} label=${own("to")} value=${to} options=${choices(abilities.into)} change=${setTo} /><button class="button primary">${t("task_translate")}</button></form>`;
}

function Find({ run }) {
  const [words, set] = useState("");
  return html`<form class="form-row" onSubmit=${(event) => { event.preventDefault(); if (words.trim()) run(words.trim()); }}>
    <${Field} label=${own("words")}>${(id) => html`<input id=${id} maxlength="200" value=${words} onInput=${(event) => set(event.target.value)} />`}<//>
    <button class="button primary" disabled=${!words.trim()}>${own("go")}</button></form>`;
}

function Past({ open, close, take }) {
  const [found, set] = useState(null);
  const [error, setError] = useState(null);
  const { rooms } = useLive();
  const roomOf = (id) => rooms.find((room) => room.id === id)?.name ?? id;
  useEffect(() => {
    if (!open) return;
    set(null);
    setError(null);
    api.get("events", { limit: 100 }).then(({ events }) => set(events.filter(({ clip }) => clip.state === "kept").slice(0, 30)), setError);
  }, [open]);
  return html`<${Dialog} title=${own("past_title")} open=${open} close=${close}>
    ${error ? html`<${Failure} error=${error} />` : found === null ? html`<${Loading} />` : found.length === 0 ? html`<p class="muted">${own("no_past")}</p>` : html`<ul class="past">${found.map(({ event }) => html`<li key=${event.id}>
      <span>${soundName(event.event_type, event.label)} <span class="muted">${roomOf(event.room)} · ${dayOf(event.start)} ${timeOf(event.start)}</span></span><${Button} class="small" onClick=${() => take(event.id)}>${own("take")}<//></li>`)}</ul>`}
  <//>`;
}
