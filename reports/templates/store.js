"use strict";
// What the page holds, and the files beside it, each loaded when it is first asked for. Works from a folder and from a server alike.
const Data = JSON.parse(document.getElementById("data").textContent);

const Store = (() => {
  const kept = new Map(), waiting = new Map();

  async function unpack(text) {
    if (!("DecompressionStream" in window)) throw new Error("this browser cannot unpack samples: use a newer one");
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  function read(name) {
    const inline = document.getElementById(`file-${name}`);
    if (inline) return Promise.resolve(inline.textContent);
    return new Promise((resolve, reject) => {
      const script = document.createElement("script"), fail = () => reject(new Error(`${name}.js cannot be read: keep the folders beside this page`));
      waiting.set(name, resolve);
      script.src = `${name}.js`;
      script.onerror = script.onload = fail; // a file that was received has resolved before it is loaded
      document.head.append(script);
    });
  }

  function load(name) {
    if (!kept.has(name)) {
      const found = read(name).then(unpack);
      found.catch(() => kept.delete(name));
      kept.set(name, found);
    }
    return kept.get(name);
  }

  window.receive = (name, text) => waiting.get(name)?.(text);
  return { load, loaded: () => [...kept.keys()] };
})();

// An element; strings become text, never markup.
function make(tag, options, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}
