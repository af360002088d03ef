// Texts that the parts of Ask share.

import { language, texts } from "../i18n.js";

export const t = texts({
  en: {
    task_ask: "Question", task_transcribe: "Write down", task_words: "Words with times", task_translate: "Translate", task_find: "Find a word",
    task_tag: "Name sounds", task_caption: "Describe", task_emotion: "Emotion", task_sounds: "List sounds in words", task_scene: "Where was it?",
    task_speaker: "Who speaks?", task_understand: "What is wanted?", "task_vocal-sound": "Cough, laugh, sneeze…?", task_music: "Describe music", task_note: "Musical note",
    lacks_audio_llm: "This needs an audio language model: profile: hybrid, qwen or remote. “kikimimi doctor” tells what fits this machine.",
    lacks_speech: "This needs speech recognition: speech.enabled: true, then a restart.",
    lacks_multilingual: "This needs a multilingual Whisper: speech.model: base.",
    upload: "Upload a file", record: "Record", stop: "Stop", cancel: "Discard", last: "Last 10 s", recording: "Recording… {time}", level: "Loudness",
    from_room: "From a room", room: "Room", seconds: "Length", seconds_n: "{n} s", record_room: "Record now", listening_to: "{room} is being recorded…",
    no_room: "No room is heard just now.",
    insecure: "Your browser gives pages a microphone only over https or on the machine itself. You can upload a file, or use a room’s own microphone. How to get https is told in docs/web.md.",
    denied: "The microphone is blocked. Allow it in the browser’s settings for this page.", no_device: "The browser found no microphone.",
    microphone_failed: "The microphone cannot be opened: {reason}", microphone_clip: "Recording {time}", clip_name: "Recording",
    ended_length: "The answer was cut off at its greatest length.", ended_stopped: "Stopped.", no_speech: "No speech was heard.",
    not_found: "“{text}” was not found.", heard: "Heard:", no_sounds: "Nothing that has a name was heard.", nothing: "The model said nothing.", removed: "removed recording",
    by: "by {model}", into: "into {language}", delete: "Delete",
  },
  ja: {
    task_ask: "質問", task_transcribe: "文字起こし", task_words: "単語と時刻", task_translate: "翻訳", task_find: "言葉を探す",
    task_tag: "音の名前", task_caption: "音の説明", task_emotion: "感情", task_sounds: "音を言葉で列挙", task_scene: "場所の推定",
    task_speaker: "話し手の推定", task_understand: "要望の読み取り", "task_vocal-sound": "せき・笑い・くしゃみなど", task_music: "音楽の説明", task_note: "楽音の分析",
    lacks_audio_llm: "音声言語モデルが必要です（profile: hybrid、qwen または remote）。この機器で動くかは「kikimimi doctor」で確認できます。",
    lacks_speech: "音声認識が必要です。speech.enabled: true にして再起動してください。",
    lacks_multilingual: "多言語の Whisper が必要です（speech.model: base）。",
    upload: "ファイルを選ぶ", record: "録音", stop: "停止", cancel: "破棄", last: "直前の10秒", recording: "録音中… {time}", level: "音量",
    from_room: "部屋のマイク", room: "部屋", seconds: "長さ", seconds_n: "{n} 秒", record_room: "今から録音", listening_to: "{room}を録音しています…",
    no_room: "いま音を拾っている部屋がありません。",
    insecure: "ブラウザがマイクを使えるのは、https のページか、この機器自身で開いたページだけです。ファイルを選ぶか、部屋のマイクをお使いください。https にする方法は docs/web.md にあります。",
    denied: "マイクの使用が許可されていません。ブラウザの設定でこのページに許可してください。", no_device: "マイクが見つかりません。",
    microphone_failed: "マイクを開けません：{reason}", microphone_clip: "録音 {time}", clip_name: "録音",
    ended_length: "回答が長さの上限で切れました。", ended_stopped: "停止しました。", no_speech: "話し声は聞こえませんでした。",
    not_found: "「{text}」は見つかりませんでした。", heard: "聞こえた内容：", no_sounds: "名前のつく音は聞こえませんでした。", nothing: "モデルは何も答えませんでした。", removed: "削除した録音",
    by: "{model}", into: "{language}へ", delete: "削除",
  },
});

const names = new Intl.DisplayNames([language], { type: "language" });
export const nameOf = (code) => {
  try {
    return names.of(code) ?? code;
  } catch {
    return code;
  }
};
export const choices = (codes) => codes.map((code) => [code, nameOf(code)]).sort((a, b) => a[1].localeCompare(b[1], language));

const hour = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit" });
export const clipName = (clip) => {
  if (!clip) return t("removed");
  return clip.name || t("microphone_clip", { time: hour.format(new Date(clip.added)) });
};
