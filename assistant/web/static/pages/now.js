// Now: what each room sounds like at this moment.

import { api } from "../api.js";
import { texts } from "../i18n.js";
import { Badge, Card, failed, html, Page, Switch, useLive } from "../ui.js";

const t = texts({
  en: { title: "Now", lead: "What is heard at this moment", house: "Listen in the whole house", listen: "Listen here", online: "Listening", offline: "Not heard", disabled: "Switched off" },
  ja: { title: "いま", lead: "この瞬間に聞こえているもの", house: "家じゅうで聞く", listen: "この部屋で聞く", online: "聞いています", offline: "聞こえません", disabled: "オフ" },
});

const KINDS = { online: "good", offline: "bad", disabled: "" };

function Room({ room }) {
  return html`<${Card} title=${room.name} actions=${html`<${Badge} kind=${KINDS[room.presence]}>${t(room.presence)}<//>`}>
    ${room.reason && html`<p class="muted">${room.reason}</p>`}
    <${Switch} label=${t("listen")} on=${room.listening} change=${(on) => api.put(`rooms/${room.id}/listening`, { on }).catch(failed)} />
  <//>`;
}

export default function Now() {
  const { rooms, listening } = useLive();
  return html`<${Page} title=${t("title")} lead=${t("lead")} actions=${html`<${Switch} label=${t("house")} on=${listening} change=${(on) => api.put("rooms/listening", { on }).catch(failed)} />`}>
    <div class="grid">${rooms.map((room) => html`<${Room} key=${room.id} room=${room} />`)}</div>
  <//>`;
}
