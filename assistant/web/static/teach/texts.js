// What the page says about taught sounds.

import { language, number, texts } from "../i18n.js";

export const t = texts({
  en: {
    title: "Teach", lead: "Sounds of your own home: your doorbell, your washing machine", add: "Teach a sound", none: "Nothing was taught yet",
    none_text: "Kikimimi knows hundreds of kinds of sound, but not your own chime. Three to five recordings are enough to teach it.",
    house: ({ heard, days }) => (heard ? `Told apart from ${heard} sounds heard in this house${days >= 0.1 ? ` over ${number(days)} days` : ""}.` : "Nothing was heard of this house yet; the longer Kikimimi listens, the better it can judge."),
    forget: "Forget", forget_title: "Forget “{title}”?", forget_text: "It is not heard any more, and Home Assistant loses its entities. Rules that name it never fire.", forgotten: "“{title}” is forgotten.",
    examples: ({ n }) => (n === 1 ? "1 example" : `${n} examples`), from: "heard from {score} on", event_type: "Event type", taught: "Taught",
    clear: "Clear", confusable: "May be confused", different: "Too different",
    clear_text: ({ like }) => `It is told apart from everything else.${like ? ` Most like it: ${like}.` : ""}`,
    confusable_text: ({ like }) => `It may be confused with ${like || "other sounds"}. More examples, recorded nearer, help.`,
    different_text: "The examples are too different from each other. Drop the one that does not fit, or record them again.",
    false_per_day: ({ n }) => `By what this house sounds like: ${n < 0.05 ? "no false alarms" : `about ${number(n)} false ${n > 0.95 && n < 1.05 ? "alarm" : "alarms"} a day`}.`,
    heard_per_day: "Something just like it was heard about {n} times a day before.", or: "or",
    step_name: "Name", step_examples: "Examples", step_try: "Try it", steps: "Steps", back: "Back", next: "Next", cancel: "Cancel", save: "Save",
    name_label: "What is it called?", name_hint: "In any script: Front door, 台所のチャイム", name_placeholder: "Front door",
    slug_label: "Event type for MQTT and rules", slug_hint: "a-z, 0-9 and _. Left empty, it is made of the name.", more: "More",
    how_many: ({ n }) => (n === 0 ? "Record it three to five times, as different as it gets: near and far, loud and soft." : n < 2 ? "At least one more." : n < 3 ? "One or two more make it surer." : "That is enough; more help if it is heard from far away."),
    by_room: "A room", by_browser: "This device", by_event: "Past events", by_file: "Files", source: "Where the example comes from",
    room: "Room", record: "Record 4 seconds", recording: "Recording: make the sound now", starts: "Make the sound in {n}…", level: "Loudness", listening: "One moment: it is being listened to…",
    insecure: "Browsers give microphones only to pages opened over https, or on the very machine that Kikimimi runs on. Take a room's microphone or upload files instead; a reverse proxy with TLS or Home Assistant makes it work here.",
    no_clips: "No recordings are kept. Switch clips on in the settings to pick past events; files and microphones work without.", no_past: "No past event has a recording yet.", take: "Take", taken: "Taken",
    choose: "Choose files", drop_here: "or drop them here", file_hint: "WAV, FLAC, MP3, M4A … The files themselves are not kept.", denied: "The microphone was not allowed.",
    example: "Example", score: "Recognised by the others", fits: "fits", unfit: "does not fit", drop: "Drop", dropped: "Dropped", unknown_yet: "more examples needed",
    try_text: "Make the sound in this room. It is recognised when the bar passes the line.", try_room: "Room to listen in", heard: "Heard!", waiting: "Waiting for the sound…", offline: "This room is not heard now.", score_now: "Likeness", saved: "“{title}” is taught. From now on it is an event.", threshold: "needed",
    problems: "Some files cannot be used", stop: "{text}.",
  },
  ja: {
    title: "教える", lead: "わが家だけの音：玄関のチャイム、洗濯機など", add: "音を教える", none: "まだ何も教えていません",
    none_text: "Kikimimi は何百種類もの音を知っていますが、この家のチャイムは知りません。3〜5回の録音で覚えます。",
    house: ({ heard, days }) => (heard ? `この家で聞こえた${heard}個の音${days >= 0.1 ? `（${number(days)}日分）` : ""}と聞き分けます。` : "この家の音はまだ聞こえていません。長く聞くほど正確に判断できます。"),
    forget: "忘れる", forget_title: "「{title}」を忘れますか？", forget_text: "この音は聞き取られなくなり、Home Assistant のエンティティも消えます。この音を使うルールは動かなくなります。", forgotten: "「{title}」を忘れました。",
    examples: ({ n }) => `録音 ${n} 件`, from: "{score} 以上で検出", event_type: "イベント種別", taught: "教えた日",
    clear: "はっきり区別できます", confusable: "間違えるかもしれません", different: "ばらつきが大きすぎます",
    clear_text: ({ like }) => `ほかの音と区別できます。${like ? `いちばん似ている音：${like}。` : ""}`,
    confusable_text: ({ like }) => `${like || "ほかの音"}と間違えるかもしれません。近くで録音を増やすと改善します。`,
    different_text: "録音どうしが違いすぎます。合わないものを外すか、録り直してください。",
    false_per_day: ({ n }) => (n < 0.05 ? "この家の音から見て、誤検出はなさそうです。" : `この家の音から見て、誤検出は1日に約${number(n)}回です。`),
    heard_per_day: "そっくりな音がこれまで1日に約{n}回聞こえています。", or: "または",
    step_name: "名前", step_examples: "録音", step_try: "試す", steps: "手順", back: "戻る", next: "次へ", cancel: "やめる", save: "保存",
    name_label: "何という音ですか？", name_hint: "どの文字でもかまいません：玄関のチャイム、Front door", name_placeholder: "玄関のチャイム",
    slug_label: "MQTT とルールで使うイベント種別", slug_hint: "a-z、0-9、_ のみ。空欄なら名前から作ります。", more: "詳細",
    how_many: ({ n }) => (n === 0 ? "3〜5回録音してください。近くから、遠くから、大きく、小さくと、変化をつけると確実です。" : n < 2 ? "あと1件は必要です。" : n < 3 ? "あと1、2件あるとより確実です。" : "これで十分です。遠くから聞こえる音なら、もう少し増やすと確実です。"),
    by_room: "部屋のマイク", by_browser: "この端末", by_event: "過去のできごと", by_file: "ファイル", source: "録音の入手先",
    room: "部屋", record: "4秒間録音する", recording: "録音中：いま音を鳴らしてください", starts: "{n} 秒後に鳴らしてください…", level: "音の大きさ", listening: "聞き取っています。お待ちください…",
    insecure: "ブラウザーのマイクは、https で開いたページか、Kikimimi が動いている機器そのものでしか使えません。部屋のマイクかファイルをお使いください。TLS のリバースプロキシや Home Assistant を通すと、ここでも使えるようになります。",
    no_clips: "録音は保存されていません。過去のできごとから選ぶには、設定でクリップを有効にしてください。マイクとファイルはそのまま使えます。", no_past: "録音のあるできごとはまだありません。", take: "使う", taken: "追加済み",
    choose: "ファイルを選ぶ", drop_here: "またはここにドロップ", file_hint: "WAV、FLAC、MP3、M4A など。ファイルそのものは保存されません。", denied: "マイクの使用が許可されませんでした。",
    example: "録音", score: "ほかの録音からの認識度", fits: "合う", unfit: "合わない", drop: "外す", dropped: "外しました", unknown_yet: "録音を増やしてください",
    try_text: "この部屋で音を鳴らしてください。バーが線を越えると認識されます。", try_room: "聞く部屋", heard: "聞こえました！", waiting: "音を待っています…", offline: "この部屋はいま聞こえません。", score_now: "似ている度合い", saved: "「{title}」を覚えました。これからはイベントとして届きます。", threshold: "必要な値",
    problems: "使えないファイルがあります", stop: "{text}。",
  },
});

export const KINDS = { clear: "good", confusable: "warning", different: "bad" };

// What taught sounds are told from, as AudioSet calls it; other labels are shown as they are.
const JAPANESE = {
  "Doorbell": "チャイム", "Telephone": "電話", "Siren": "サイレン", "Smoke detector, smoke alarm": "火災警報器", "Bell": "ベル", "Beep, bleep": "電子音", "Buzzer": "ブザー", "Sine wave": "単音", "Noise": "雑音", "Wind": "風", "Water": "水", "Rain": "雨", "Crackle": "パチパチ音", "Typing": "タイピング", "Tick-tock": "時計", "Knock": "ノック", "Walk, footsteps": "足音", "Thump, thud": "ドスンという音", "Clapping": "手拍子", "Applause": "拍手", "Engine": "エンジン", "Vacuum cleaner": "掃除機", "Hum": "うなり", "Drill": "ドリル", "Sawing": "のこぎり", "Whistling": "口笛", "Cough": "せき", "Crow": "カラス", "Glass": "ガラス", "Dishes, pots, and pans": "食器", "Bird": "鳥", "Bark": "犬の鳴き声", "Cat": "猫", "Baby cry, infant cry": "赤ちゃんの泣き声", "Snoring": "いびき", "Sneeze": "くしゃみ", "Music": "音楽", "Speech": "話し声",
};
const called = (label) => (language === "ja" ? JAPANESE[label] : undefined) ?? label;

// The verdict in one paragraph.
export function judged(verdict) {
  const like = verdict.confused_with.map(called).join(` ${t("or")} `);
  const parts = [t(`${verdict.kind}_text`, { like })];
  if (verdict.false_per_day !== null) parts.push(t("false_per_day", { n: verdict.false_per_day }));
  if (verdict.heard_per_day) parts.push(t("heard_per_day", { n: number(verdict.heard_per_day) }));
  return parts.join(" ");
}
