// A day: rows are types of events, columns its hours; the count is a colour, and a number for whoever cannot see that.

import { language, number, texts } from "../i18n.js";
import { html, useEffect, useRef } from "../ui.js";
import { soundName } from "../words.js";

const t = texts({
  en: { caption: "How often each sound was heard, by the hour", sound: "Sound", total: "Day", cell: "{name}, {hour}: {count}", all: "All of {name} on this day: {count}", none: "Nothing was heard on this day." },
  ja: { caption: "時間ごとに聞こえた回数", sound: "音", total: "1日", cell: "{name} {hour}：{count}回", all: "この日の{name}すべて：{count}回", none: "この日は何も聞こえていません。" },
});

const clock = new Intl.DateTimeFormat(language, { hour: "numeric", timeZone: "UTC" });
const HOURS = [...Array(24).keys()];
export const hourName = (hour) => clock.format(new Date(Date.UTC(2026, 0, 1, hour)));

// chosen: {type, hour}; hour null is the whole day. `choose` gets the same.
export function HeatMap({ rows, chosen, choose }) {
  const box = useRef(null);
  const last = Math.max(-1, ...rows.flatMap((row) => row.hours.map((count, hour) => (count ? hour : -1))));
  useEffect(() => { // on a phone: the last hour that has any
    const cell = box.current?.querySelector(`thead th:nth-child(${last + 2})`);
    if (cell) box.current.scrollLeft = cell.offsetLeft + cell.offsetWidth * 3 - box.current.clientWidth;
  }, [last]);
  if (!rows.length) return html`<p class="muted none">${t("none")}</p>`;
  const most = Math.max(...rows.flatMap((row) => row.hours));
  // Five steps on which numbers can be read: the strongest with bright text, the others with dark.
  const heat = (count) => (count === most ? 100 : [14, 26, 38, 50][Math.min(3, Math.floor((4 * Math.log1p(count)) / Math.log1p(most)))]);
  const is = (type, hour) => chosen.type === type && chosen.hour === hour;
  return html`<div class="scroll heat" ref=${box}><table>
    <caption class="visually-hidden">${t("caption")}</caption>
    <thead><tr><th scope="col"><span class="visually-hidden">${t("sound")}</span></th>
      ${HOURS.map((hour) => html`<th scope="col" class="hour"><abbr title=${hourName(hour)}>${hour}</abbr></th>`)}<th scope="col" class="sum">${t("total")}</th></tr></thead>
    <tbody>${rows.map(({ event_type: type, total, hours }) => {
      const name = soundName(type);
      return html`<tr key=${type}><th scope="row">${name}</th>
        ${HOURS.map((hour) => {
          const count = hours[hour];
          if (!count) return html`<td><span class="cell"></span></td>`;
          const share = heat(count);
          return html`<td><button type="button" class="cell ${share === 100 ? "hot" : ""}" style=${{ "--heat": `${share}%` }} aria-pressed=${is(type, hour)}
            aria-label=${t("cell", { name, hour: hourName(hour), count: number(count) })} onClick=${() => choose(is(type, hour) ? { type: "", hour: null } : { type, hour })}>${count > 999 ? "1k" : count}</button></td>`;
        })}
        <td class="sum"><button type="button" class="link" aria-pressed=${is(type, null)} aria-label=${t("all", { name, count: number(total) })}
          onClick=${() => choose(is(type, null) ? { type: "", hour: null } : { type, hour: null })}>${number(total)}</button></td></tr>`;
    })}</tbody>
  </table></div>`;
}
