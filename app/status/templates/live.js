"use strict";
// Puts each event's content into the page, changing only what differs: focus, selection and scrolling stay.
const main = document.getElementById("main");
const connection = document.getElementById("connection");
const QUIET_MS = 5000;
const RETRY_MS = 10000;
let quiet;

function morph(old, fresh) {
  if (old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const name of old.getAttributeNames()) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const name of fresh.getAttributeNames()) {
    if (old.getAttribute(name) !== fresh.getAttribute(name)) old.setAttribute(name, fresh.getAttribute(name));
  }
  children(old, fresh);
}

function children(old, fresh) {
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((node, i) => (i < before.length ? morph(before[i], node) : old.append(node)));
  before.slice(after.length).forEach((node) => node.remove());
}

function say(text) {
  if (connection.textContent !== text) connection.textContent = text;
}

function connect() {
  const events = new EventSource("status/events");
  events.onmessage = ({ data }) => {
    const fresh = document.createElement("template");
    fresh.innerHTML = data;
    children(main, fresh.content);
    say("Live");
    clearTimeout(quiet);
    quiet = setTimeout(() => say("No news: the figures are old"), QUIET_MS);
  };
  // The browser tries again by itself, unless it was refused.
  events.onerror = () => {
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, RETRY_MS);
  };
}

connect();
