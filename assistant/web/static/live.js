// What the daemon tells by itself: one WebSocket for the whole page, opened again for ever. Nothing polls.

import { address } from "./api.js";

const BACKOFF = [500, 8000]; // ms
const listeners = new Map(); // type → functions
const watched = new Map(); // room → how many parts of the page watch it
const state = { connected: false, version: "", listening: true, rooms: [] };
let socket = null;
let wait = BACKOFF[0];
let timer = 0;
let wanted = false;

function tell(type, message) {
  for (const listener of [...(listeners.get(type) ?? [])]) listener(message);
}

function say() {
  const rooms = document.hidden ? [] : [...watched.keys()];
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ watch: rooms }));
}

function keep(message) {
  if (message.type === "rooms") {
    state.version = message.version;
    state.listening = message.listening;
    state.rooms = message.rooms;
  } else if (message.type === "room") {
    const known = state.rooms.some((room) => room.id === message.room.id);
    state.rooms = known
      ? state.rooms.map((room) => (room.id === message.room.id ? message.room : room))
      : [...state.rooms, message.room];
  } else {
    return;
  }
  tell("state", state);
}

function connected(now) {
  if (state.connected === now) return;
  state.connected = now;
  tell("state", state);
  tell("connection", now);
}

function open() {
  const url = address("live");
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const mine = new WebSocket(url);
  socket = mine;
  mine.onopen = () => {
    wait = BACKOFF[0];
    connected(true);
    say();
  };
  mine.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    keep(message);
    tell(message.type, message);
  };
  mine.onclose = () => {
    if (socket !== mine) return;
    connected(false);
    if (!wanted) return;
    timer = setTimeout(open, wait * (0.8 + 0.4 * Math.random()));
    wait = Math.min(2 * wait, BACKOFF[1]);
  };
}

document.addEventListener("visibilitychange", say);

export const live = {
  state,
  start() {
    if (wanted) return;
    wanted = true;
    open();
  },
  stop() {
    wanted = false;
    clearTimeout(timer);
    socket?.close();
  },
  // Calls `listener` with each message of a type; `state` and `connection` are of this page. Returns what ends it.
  on(type, listener) {
    if (!listeners.has(type)) listeners.set(type, new Set());
    listeners.get(type).add(listener);
    return () => listeners.get(type).delete(listener);
  },
  // Asks for the fast figures of a room while this part of the page is there. Returns what ends it.
  watch(room) {
    watched.set(room, (watched.get(room) ?? 0) + 1);
    say();
    return () => {
      const left = watched.get(room) - 1;
      if (left) watched.set(room, left);
      else watched.delete(room);
      say();
    };
  },
};
