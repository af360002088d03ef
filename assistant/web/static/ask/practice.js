// The practice of a language: speak, read what was understood and what it means, hear each word and the whole again.

import { api, stream } from "../api.js";
import { ago, recalled, remember, texts } from "../i18n.js";
import { Button, Card, Empty, failed, html, Loading, Notice, Select, useEffect, useMemo, useRef, useState } from "../ui.js";
import { Answer } from "./answer.js";
import { available } from "./microphone.js";
import { clock, Player } from "./player.js";
import { Icon, Insecure, Level, useHandedFocus, useMicrophone, useRoom } from "./sources.js";
import { say, soundOfClip } from "./sounds.js";
import { choices, nameOf, t } from "./texts.js";

const own = texts({
  en: {
    learning: "I am learning", mine: "I speak", speak: "Press and speak", speaking: "Press when you are done", working: "Listening to what you said…",
    source: "Microphone", browser: "This browser’s", room_seconds: "{n} s are recorded.", said: "What was understood", means: "What it means", yourself: "Hear yourself", voice: "Hear the voice",
    tries: "Earlier tries", tries_kept: "The last {n} tries are kept in memory, for a day.", none: "Your first try", none_text: "Choose the language you learn, press the button and say a sentence. You will see what was understood, word by word.",
    lacks_into: "Translation into {language} needs an audio language model: profile: hybrid, qwen or remote (“kikimimi doctor” tells what fits). Whisper translates into English.",
    english: "Translate into English", no_speech: "No speech was heard. Speak louder or closer, and a little longer.", remove: "Delete this try", by_whisper: "Whisper’s own translation; it may be wrong.",
    no_voice: "The voice is off: say.enabled is false.", hint: "Click a word to hear it.",
  },
  ja: {
    learning: "学ぶ言語", mine: "自分の言語", speak: "押して話す", speaking: "話し終えたら押す", working: "聞き取っています…",
    source: "マイク", browser: "このブラウザ", room_seconds: "{n} 秒間録音します。", said: "聞き取った内容", means: "意味", yourself: "自分の声を聞く", voice: "お手本を聞く",
    tries: "これまでの練習", tries_kept: "直近 {n} 回分がメモリに1日残ります。", none: "最初の一言", none_text: "学ぶ言語を選び、ボタンを押して一文を話してください。聞き取った内容が単語ごとに表示されます。",
    lacks_into: "{language}への翻訳には音声言語モデルが必要です（profile: hybrid、qwen または remote。動くかは「kikimimi doctor」で確認できます）。Whisper は英語への翻訳だけできます。",
    english: "英語に翻訳", no_speech: "話し声が聞こえませんでした。もう少し大きく、近く、長めに話してみてください。", remove: "この練習を削除", by_whisper: "Whisper による翻訳です。誤りを含むことがあります。",
    no_voice: "音声読み上げがオフです（say.enabled が false）。", hint: "単語を押すと、その部分が聞けます。",
  },
});

const ROOM_SECONDS = 8;

export function Practice({ abilities }) {
  const [chat, setChat] = useState(null);
  const [error, setError] = useState(null);
  const [learning, setLearning] = useState(() => chosen("learning", abilities.spoken, ["en", "ja"]));
  const [mine, setMine] = useState(() => recalled("mine") ?? document.documentElement.lang);
  const [state, setState] = useState("idle"); // idle, room, working
  const { heard, room, choose } = useRoom();
  const [source, setSource] = useState(available() ? "browser" : "room");
  const kept = useRef({});
  const aborting = useRef(new AbortController());

  useEffect(() => {
    api.get("ask/chats").then(async (chats) => {
      const last = chats.find((one) => one.kind === "practice");
      setChat(last ? await api.get(`ask/chats/${last.id}`) : { id: null, turns: [], clips: [] });
    }).catch(setError);
    return () => {
      aborting.current.abort();
      Object.values(kept.current).forEach((sound) => sound.close());
    };
  }, []);

  const begin = async () => {
    if (chat.id) {
      try {
        return (await api.get(`ask/chats/${chat.id}`)).id;
      } catch (problem) {
        if (problem.status !== 404) throw problem; // 404: it was forgotten
      }
    }
    const begun = await api.post("ask/chats", { kind: "practice" });
    setChat(begun);
    return begun.id;
  };
  const change = (turn) => setChat((before) => {
    const known = before.turns.some((one) => one.id === turn.id);
    return { ...before, turns: known ? before.turns.map((one) => (one.id === turn.id ? turn : one)) : [...before.turns, turn] };
  });
  const ask = async (id, question) => {
    let turn = null;
    await stream("POST", `ask/chats/${id}/ask`, { body: question, signal: aborting.current.signal }, (kind, told) => {
      if (kind === "piece") turn = { ...turn, text: turn.text + told.text };
      else turn = told;
      change(turn);
    });
    return turn;
  };
  // What is said, then what it means, if there is a model for that.
  const attempt = async (recording) => {
    setState("working");
    try {
      const id = await begin();
      const oldest = chat.clips.length >= abilities.clips ? chat.clips[0] : null;
      if (oldest) await forget(id, oldest);
      const clip = await recording(id);
      setChat((before) => ({ ...before, id, clips: [...before.clips, clip] }));
      setState("working");
      const said = await ask(id, { task: "words", language: learning, clips: [clip.id] });
      if (said?.ended === "end" && textOf(said) && abilities.into.includes(mine) && mine !== learning) {
        await ask(id, { task: "translate", to: mine, language: learning, clips: [clip.id] });
      }
    } catch (problem) {
      if (problem.name !== "AbortError") failed(problem);
    }
    setState("idle");
  };
  const forget = async (id, clip) => {
    await api.delete(`ask/chats/${id}/clips/${clip.id}`);
    kept.current[clip.id]?.close();
    delete kept.current[clip.id];
    setChat((before) => ({ ...before, clips: before.clips.filter((one) => one.id !== clip.id) }));
  };
  const translate = async (clip) => {
    setState("working");
    await ask(chat.id, { task: "translate", to: "en", language: languageOf(chat, clip) ?? learning, clips: [clip.id] }).catch(failed);
    setState("idle");
  };

  const microphone = useMicrophone((blob) => attempt((id) => api.post(`ask/chats/${id}/clips?origin=microphone`, new Blob([blob], { type: "application/octet-stream" }), { patience: 120000 })));
  const fromRoom = () => {
    setState("room");
    return attempt((id) => {
      setState("room");
      return api.post(`ask/chats/${id}/clips/room`, { room, seconds: ROOM_SECONDS, upcoming: true }, { patience: 60000 });
    });
  };
  const sounds = useMemo(() => {
    for (const clip of chat?.clips ?? []) kept.current[clip.id] ??= soundOfClip(chat.id, clip.id);
    return { ...kept.current };
  }, [chat?.clips]);
  const focus = useHandedFocus(`${microphone.recording}${state === "room"}`);

  if (error) return html`<${Notice} kind="bad">${error.message}<//>`;
  if (!chat) return html`<${Loading} />`;
  const lacks = abilities.tasks.find((task) => task.name === "words")?.lacks;
  if (lacks) return html`<${Notice} kind="warning">${t(`lacks_${lacks}`)}<//>`;
  const using = source === "browser" && available() ? "browser" : "room";
  const sources = [...(available() ? [["browser", own("browser")]] : []), ...heard.map((one) => [`room ${one.id}`, one.name])];
  const tries = [...chat.clips].reverse();
  return html`<div class="stack">
    <${Card} class="practice">
      <div class="form-row">
        <${Select} label=${own("learning")} value=${learning} options=${choices(abilities.spoken)} change=${(code) => { setLearning(code); remember("learning", code); }} />
        <${Select} label=${own("mine")} value=${mine} options=${choices([...new Set([...abilities.spoken, ...abilities.into, mine])])} change=${(code) => { setMine(code); remember("mine", code); }} />
        ${sources.length > 0 && html`<${Select} label=${own("source")} value=${using === "browser" ? "browser" : `room ${room}`} options=${sources} change=${(value) => { setSource(value === "browser" ? "browser" : "room"); if (value !== "browser") choose(value.slice(5)); }} />`}
      </div>
      ${!available() && html`<${Insecure} />`}
      ${!available() && !heard.length && html`<p class="muted">${t("no_room")}</p>`}
      ${sources.length > 0 && html`<div class="speak" ref=${focus}>
        ${microphone.recording || state === "room"
          ? html`<button type="button" class="mouth on" onClick=${() => (microphone.recording ? microphone.stop() : api.post(`ask/chats/${chat.id}/stop`).catch(failed))}><span class="square" aria-hidden="true"></span>${own("speaking")}</button>`
          : html`<button type="button" class="mouth" disabled=${state === "working"} aria-busy=${state === "working"} onClick=${() => (using === "browser" ? microphone.start() : fromRoom())}><${Icon} name="microphone" />${own("speak")}</button>`}
        <p class="muted" role="status">${microphone.recording ? html`<span class="numeric">${clock(microphone.seconds)}</span> <${Level} level=${microphone.level} />` : state === "working" ? own("working") : using === "room" ? own("room_seconds", { n: ROOM_SECONDS }) : ""}</p>
      </div>`}
      ${mine !== learning && !abilities.into.includes(mine) && html`<p class="hint">${own("lacks_into", { language: nameOf(mine) })}</p>`}
    <//>
    ${tries.length === 0 ? html`<${Empty} title=${own("none")}><p>${own("none_text")}</p><//>` : html`<ol class="tries">
      ${tries.map((clip, i) => html`${i === 1 && html`<li key="head"><h2>${own("tries")}</h2><p class="hint">${own("tries_kept", { n: abilities.clips })}</p></li>`}
        <${Try} key=${clip.id} clip=${clip} turns=${chat.turns.filter((turn) => turn.clips.includes(clip.id))} sound=${sounds[clip.id]} abilities=${abilities} busy=${state !== "idle"} newest=${i === 0} translate=${() => translate(clip)}
          forget=${() => forget(chat.id, clip).catch(failed)} />`)}</ol>`}
  </div>`;
}

function chosen(key, known, wished) {
  const before = recalled(key);
  return known.includes(before) ? before : wished.find((code) => known.includes(code) && code !== document.documentElement.lang) ?? known[0];
}

const textOf = (turn) => turn?.data?.clips?.[0]?.text ?? turn?.text ?? "";
const latest = (turns, task) => turns.filter((turn) => turn.task === task).at(-1);
const languageOf = (chat, clip) => latest(chat.turns.filter((turn) => turn.clips.includes(clip.id)), "words")?.options.language;

function Try({ clip, turns, sound, abilities, busy, newest, translate, forget }) {
  const said = latest(turns, "words");
  const meaning = latest(turns, "translate");
  const language = said?.options.language;
  const text = textOf(said);
  const english = said?.ended === "end" && text && !meaning && abilities.into.includes("en") && language !== "en";
  const silent = said?.ended === "end" && !text;
  return html`<li class="card try" aria-label=${text || own("none")}>
    <div class="row apart"><span class="muted">${language && nameOf(language)} · ${ago(clip.added)}</span>
      <button type="button" class="round small bare" aria-label=${own("remove")} onClick=${forget}><${Icon} name="cross" /></button></div>
    ${said && html`<section aria-live=${newest ? "polite" : undefined} aria-busy=${!said.ended}>
      <h3 class="part">${own("said")}</h3>
      ${silent ? html`<p>${own("no_speech")}</p>` : html`<${Answer} turn=${said} clips=${{ [clip.id]: clip }} sounds=${{ [clip.id]: sound }} />`}
      ${newest && text && said.data?.clips?.[0]?.words?.length > 0 && html`<p class="hint">${own("hint")}</p>`}
    </section>`}
    ${meaning && html`<section aria-live=${newest ? "polite" : undefined} aria-busy=${!meaning.ended}>
      <h3 class="part">${own("means")} · ${nameOf(meaning.options.to)}</h3>
      <div lang=${meaning.options.to} class="meaning"><${Answer} turn=${meaning} clips=${{ [clip.id]: clip }} sounds=${{ [clip.id]: sound }} /></div>
      ${meaning.model?.startsWith("whisper") && html`<p class="hint">${own("by_whisper")}</p>`}
    </section>`}
    <${Player} sound=${sound} name=${own("yourself")} seconds=${clip.seconds} />
    <div class="row">
      <${Button} class="small" onClick=${() => sound.play(0).catch(failed)}>${own("yourself")}<//>
      ${text && (abilities.voice ? html`<${Button} class="small" onClick=${() => say(text, language).catch(failed)}>${own("voice")}<//>` : html`<span class="hint">${own("no_voice")}</span>`)}
      ${english && html`<${Button} class="small" disabled=${busy} onClick=${translate}>${own("english")}<//>`}
    </div>
  </li>`;
}
