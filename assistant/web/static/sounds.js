// What people call the event types of the shipped sound table.

import { texts } from "./i18n.js";

const t = texts({
  en: {
    smoke_alarm: "Smoke alarm", co_alarm: "CO alarm", glass_break: "Breaking glass", baby_cry: "Baby crying", dog_bark: "Dog barking", cat: "Cat",
    doorbell: "Doorbell", knock: "Knocking", siren: "Siren", alarm_clock: "Alarm clock", appliance_beep: "Appliance beep", phone: "Telephone",
    water: "Running water", cough: "Coughing", sneeze: "Sneezing", snore: "Snoring", shout: "Shouting", laughter: "Laughter", clapping: "Clapping",
    footsteps: "Footsteps", music: "Music", thunder: "Thunder", gunshot: "Gunshot", power_tool: "Power tool", vehicle: "Vehicle", bird: "Bird",
    speech: "Speech", test: "Test alert",
  },
  ja: {
    smoke_alarm: "煙警報器", co_alarm: "一酸化炭素警報器", glass_break: "ガラスの割れる音", baby_cry: "赤ちゃんの泣き声", dog_bark: "犬のほえる声", cat: "猫",
    doorbell: "玄関チャイム", knock: "ノック", siren: "サイレン", alarm_clock: "目覚まし時計", appliance_beep: "家電の電子音", phone: "電話",
    water: "水の音", cough: "せき", sneeze: "くしゃみ", snore: "いびき", shout: "叫び声", laughter: "笑い声", clapping: "拍手",
    footsteps: "足音", music: "音楽", thunder: "雷", gunshot: "銃声", power_tool: "電動工具", vehicle: "乗り物", bird: "鳥",
    speech: "話し声", test: "テスト通知",
  },
});

// A taught sound is called as it was named; a sound of no group as the model calls it, in English.
export const soundName = (type, label = "") => {
  if (type === "other") return label || type;
  const known = t(type);
  return known === type ? type.replaceAll("_", " ") : known;
};
