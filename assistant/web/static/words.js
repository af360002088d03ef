// What people call the event types, and who heard them. Every type of config/sounds.yaml has its words (a test compares).

import { language, texts } from "./i18n.js";

const names = {
  en: {
    smoke_alarm: "Smoke alarm", co_alarm: "Carbon monoxide alarm", glass_break: "Breaking glass", baby_cry: "Crying baby", dog_bark: "Barking dog",
    cat: "Cat", doorbell: "Doorbell", knock: "Knocking", siren: "Siren", alarm_clock: "Alarm clock", appliance_beep: "Appliance beep",
    phone: "Telephone", water: "Running water", cough: "Coughing", sneeze: "Sneezing", snore: "Snoring", shout: "Shouting", laughter: "Laughter",
    clapping: "Clapping", footsteps: "Footsteps", music: "Music", thunder: "Thunder", gunshot: "Gunshot", power_tool: "Power tool",
    vehicle: "Vehicle", bird: "Bird", speech: "Speech", test: "Test alert", other: "Other sound",
  },
  ja: {
    smoke_alarm: "火災警報器の音", co_alarm: "一酸化炭素警報器の音", glass_break: "ガラスの割れる音", baby_cry: "赤ちゃんの泣き声", dog_bark: "犬の鳴き声",
    cat: "猫の鳴き声", doorbell: "玄関チャイム", knock: "ノックの音", siren: "サイレン", alarm_clock: "目覚まし時計の音", appliance_beep: "家電の電子音",
    phone: "電話の着信音", water: "水の音", cough: "せき", sneeze: "くしゃみ", snore: "いびき", shout: "叫び声", laughter: "笑い声",
    clapping: "拍手", footsteps: "足音", music: "音楽", thunder: "雷の音", gunshot: "銃声", power_tool: "電動工具の音",
    vehicle: "車の音", bird: "鳥の声", speech: "話し声", test: "テスト通知", other: "その他の音",
  },
};
const t = texts(names);

const models = texts({
  en: { t3: "rhythm of smoke alarms (T3)", t4: "rhythm of CO alarms (T4)", yamnet: "YAMNet", test: "test" },
  ja: { t3: "火災警報器のリズム（T3）", t4: "一酸化炭素警報器のリズム（T4）", yamnet: "YAMNet", test: "テスト" },
});

// A taught sound is called as it was named; a sound of no group as the model calls it, in English.
export function soundName(type, label = "") {
  if (type === "other" && label) return label;
  return type in names.en ? t(type) : label || type.replaceAll("_", " "); // a taught sound has its title as label
}

// ["YAMNet", "rhythm of smoke alarms (T3)"] of "yamnet+t3"
export const modelNames = (model) => model.split("+").filter(Boolean).map((one) => models(one));

// The types, in the order of their names.
export const byName = (types) => [...types].sort((a, b) => soundName(a).localeCompare(soundName(b), language));
