// What the page does by itself in the browser: clicks that report to Python, dialogs, the crop
// editor, the viewer, the style gallery, and small comforts. No dependency, no network of its own.
window.studio = (() => {
  const words = () => JSON.parse(document.querySelector("#top [data-words]")?.dataset.words || "{}");
  const make = (html) => {
    const box = document.createElement("div");
    box.innerHTML = html.trim();
    return box.firstElementChild;
  };
  const icon = (path) =>
    `<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.9" stroke-linecap="round" stroke-linejoin="round">${path}</svg>`;

  // Dialogs live at the end of the body, where updates of the page do not touch them.
  function open(dialog, opener) {
    document.body.append(dialog);
    dialog.addEventListener("close", () => { dialog.remove(); opener?.focus?.(); });
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.showModal();
    return dialog;
  }
  const counted = (count, one, many) => (count === 1 ? one : many.replace("#", count));
  const button = (text, kind = "", value = "") => {
    const one = document.createElement("button");
    one.type = "button";
    one.className = `button ${kind}`;
    one.value = value;
    one.textContent = text;
    return one;
  };

  function confirm(text, yes, opener) {
    return new Promise((resolve) => {
      const dialog = make('<dialog class="sheet ask"><p></p><div class="row-actions"></div></dialog>');
      dialog.querySelector("p").textContent = text;
      const no = button(words().cancel), go = button(yes || words().ok, "danger");
      dialog.querySelector(".row-actions").append(no, go);
      let answer = false;
      no.onclick = () => dialog.close();
      go.onclick = () => { answer = true; dialog.close(); };
      dialog.addEventListener("close", () => resolve(answer));
      open(dialog, opener);
      no.focus();
    });
  }

  // A click or a form inside one of our pieces of markup becomes a Python event.
  async function relay(event, element, trigger) {
    const form = event.type === "submit" ? event.target : null;
    const source = form || event.target.closest("[data-do]");
    const local = event.target.closest("[data-local]");
    if (!form && local && element.contains(local)) return here(event, local, element, trigger);
    if (!source || !element.contains(source) || source.disabled) return;
    if (!form && source.tagName === "FORM") return;
    event.preventDefault();
    const said = { ...source.dataset };
    if (form) for (const [name, value] of new FormData(form)) said[name] = value;
    if (said.confirm && !(await confirm(said.confirm, said.confirmYes, source))) return;
    trigger("click", said);
  }

  function here(event, source, element, trigger) {
    const does = {
      crop: () => crop(source, trigger),
      view: () => view(source, element, trigger),
      skip: () => document.querySelector(`${source.getAttribute("href")} h1`)?.focus(),
      "copy-link": () => copyLink(source),
      notify: () => notify(source),
      "delete-selected": () => deleteSelected(source, element, trigger),
      "style-category": () => { pickCategory(source, element); },
      "style-like": () => likeStyle(source, element, trigger),
      save: () => save(saved(source, element), source),
      overlay: () => overlay(source.dataset, source),
      appeal: () => appeal(source, trigger),
    }[source.dataset.local];
    if (does) { event.preventDefault(); does(); }
  }

  // The crop editor: a square that is dragged, or moved by keys; the slider is its size.
  function crop(source, trigger) {
    const say = words(), ratio = Number(source.dataset.ratio);
    let [left, top, right, bottom] = (source.dataset.crop || "0,0,1,1").split(",").map(Number);
    const dialog = make(`<dialog class="sheet crop"><h2></h2><p class="hint"></p>
      <div class="crop-area"><img alt=""><span class="frame" tabindex="0" role="application"></span></div>
      <label class="crop-size"><span></span><input type="range" min="20" max="100"></label>
      <div class="row-actions"></div></dialog>`);
    const [title, help, area] = [dialog.querySelector("h2"), dialog.querySelector("p"), dialog.querySelector(".crop-area")];
    const frame = area.querySelector(".frame"), size = dialog.querySelector("input");
    title.textContent = say.crop_title; help.textContent = say.crop_help;
    dialog.querySelector("label span").textContent = say.crop_size;
    frame.setAttribute("aria-label", say.crop_help);
    area.querySelector("img").src = source.dataset.picture;
    area.style.aspectRatio = ratio;
    const most = Math.min(1, 1 / ratio);                       // widest square, as share of width
    let wide = Math.min(right - left, most), x = left, y = top;
    const show = () => {
      const high = wide * ratio;
      x = Math.min(Math.max(0, x), 1 - wide); y = Math.min(Math.max(0, y), 1 - high);
      Object.assign(frame.style, { left: `${x * 100}%`, top: `${y * 100}%`, width: `${wide * 100}%`, height: `${high * 100}%` });
    };
    size.value = Math.round((wide / most) * 100);
    size.oninput = () => {
      const centre = [x + wide / 2, y + (wide * ratio) / 2];
      wide = most * size.value / 100;
      [x, y] = [centre[0] - wide / 2, centre[1] - (wide * ratio) / 2];
      show();
    };
    frame.onpointerdown = (start) => {
      const box = area.getBoundingClientRect(), [x0, y0] = [x, y];
      frame.setPointerCapture(start.pointerId);
      frame.onpointermove = (move) => {
        x = x0 + (move.clientX - start.clientX) / box.width;
        y = y0 + (move.clientY - start.clientY) / box.height;
        show();
      };
      frame.onpointerup = () => { frame.onpointermove = null; };
    };
    frame.onkeydown = (event) => {
      const step = { ArrowLeft: [-0.01, 0], ArrowRight: [0.01, 0], ArrowUp: [0, -0.01], ArrowDown: [0, 0.01] }[event.key];
      if (!step) return;
      event.preventDefault();
      x += step[0]; y += step[1];
      show();
    };
    const no = button(say.cancel), use = button(say.crop_use, "key");
    dialog.querySelector(".row-actions").append(no, use);
    no.onclick = () => dialog.close();
    use.onclick = () => {
      dialog.close();
      trigger("click", { do: "crop", id: source.dataset.id, crop: [x, y, x + wide, y + wide * ratio].join(",") });
    };
    show();
    open(dialog, source);
    frame.focus();
  }

  // The large view of avatars, with the actions that make sense for one.
  function view(source, element, trigger) {
    const say = words(), tiles = [...element.querySelectorAll('[data-local="view"]')];
    let at = tiles.indexOf(source);
    const dialog = make(`<dialog class="sheet viewer"><button type="button" class="quiet round viewer-close">${icon('<path d="M6.5 6.5l11 11M17.5 6.5l-11 11"/>')}</button>
      <div class="viewer-stage"><button type="button" class="quiet round previous">${icon('<path d="M14.5 6l-6 6 6 6"/>')}</button>
      <img alt=""><button type="button" class="quiet round next">${icon('<path d="M9.5 6l6 6-6 6"/>')}</button></div>
      <div class="viewer-foot"><p><strong></strong><span class="hint"></span></p><p class="viewer-warning"></p><div class="row-actions"></div></div></dialog>`);
    const part = (name) => dialog.querySelector(name);
    part(".viewer-close").setAttribute("aria-label", say.close);
    part(".previous").setAttribute("aria-label", say.previous);
    part(".next").setAttribute("aria-label", say.next);
    const act = (does, more = {}) => { dialog.close(); trigger("click", { do: does, id: tiles[at].dataset.id, ...more }); };
    const show = () => {
      const data = tiles[at].dataset, picture = part("img");
      picture.src = data.full;
      picture.alt = tiles[at].querySelector("img").alt;
      picture.className = tiles[at].querySelector("img").className;
      part("strong").textContent = data.caption;
      part(".hint").textContent = data.about;
      part(".viewer-warning").textContent = data.warning;
      part(".previous").disabled = at === 0;
      part(".next").disabled = at === tiles.length - 1;
      const load = make('<a class="button key" download></a>');
      load.href = data.size ? `files/picture/${encodeURIComponent(data.id)}?size=${data.size}` : data.full;
      load.download = data.file; load.textContent = say.download;
      const liked = data.favourite === "yes";
      const keep = button(liked ? say.unfavourite : say.favourite), more = button(say.more_like_this);
      const sized = button(say.sizes), both = button(say.before_after);
      const unlike = button(say.not_like_me), bin = button(say.delete, "danger");
      sized.onclick = () => save({ id: data.id, name: data.file, size: data.size, clear: data.clear === "yes" }, sized);
      both.onclick = () => overlay({ before: data.before, after: data.full, beforeWords: say.before, afterWords: say.after, caption: data.caption }, both);
      keep.onclick = () => act("favourite", { on: liked ? "no" : "yes" });
      more.onclick = () => act("more_like_this");
      unlike.onclick = () => act("feedback");
      bin.onclick = () => act("delete");
      part(".row-actions").replaceChildren(load, sized, ...(data.before ? [both] : []), keep, more, unlike, bin);
    };
    const go = (by) => { if (tiles[at + by]) { at += by; show(); } };
    part(".viewer-close").onclick = () => dialog.close();
    part(".previous").onclick = () => go(-1);
    part(".next").onclick = () => go(1);
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") go(-1);
      if (event.key === "ArrowRight") go(1);
    });
    show();
    open(dialog, source);
  }

  // Two pictures over each other; the slider says how much of the upper one is seen.
  function overlay(data, opener) {
    const say = words();
    const dialog = make(`<dialog class="sheet overlay"><button type="button" class="quiet round viewer-close">${icon('<path d="M6.5 6.5l11 11M17.5 6.5l-11 11"/>')}</button>
      <h2></h2><div class="slide"><img class="under" alt=""><img class="over" alt=""><span class="slide-line" aria-hidden="true"></span>
      <b class="slide-left"></b><b class="slide-right"></b><input type="range" min="0" max="100" value="50"></div></dialog>`);
    const part = (name) => dialog.querySelector(name), stage = part(".slide");
    part(".viewer-close").setAttribute("aria-label", say.close);
    part(".viewer-close").onclick = () => dialog.close();
    part("h2").textContent = data.caption;
    part(".over").src = data.before; part(".over").alt = data.beforeWords;
    part(".under").src = data.after; part(".under").alt = data.afterWords;
    part(".slide-left").textContent = data.beforeWords; part(".slide-right").textContent = data.afterWords;
    const range = part("input");
    range.setAttribute("aria-label", say.overlay_slide);
    range.oninput = () => stage.style.setProperty("--at", `${range.value}%`);
    range.oninput();
    open(dialog, opener);
    range.focus();
  }

  // Downloads in a size, with or without background: one picture, or several as a zip.
  function saved(source, element) {
    const ids = selected(element), all = source.dataset.all || "";
    const query = ids.length ? ids.map((id) => `id=${encodeURIComponent(id)}`).join("&") : all;
    return { query, zip: true, count: ids.length || element.querySelectorAll("[data-avatar]").length, name: "avatars.zip", size: source.dataset.size || "", clear: source.dataset.clear === "yes" };
  }
  function save(wish, opener) {
    const say = words(), sizes = JSON.parse(document.querySelector("#top [data-sizes]")?.dataset.sizes || "[]");
    const dialog = make(`<dialog class="sheet save"><h2></h2><p class="hint save-count"></p>
      <label class="save-size"><span></span><select></select></label>
      <label class="save-clear"><input type="checkbox"><span><strong></strong><span class="hint"></span></span></label>
      <p class="save-told" role="status"></p><div class="row-actions"></div></dialog>`);
    const part = (name) => dialog.querySelector(name), list = part("select"), clear = part("input");
    part("h2").textContent = say.save_title;
    part(".save-count").textContent = wish.zip ? counted(wish.count, say.save_one, say.save_some) : "";
    part(".save-size span").textContent = say.save_size;
    part(".save-clear strong").textContent = say.save_clear;
    part(".save-clear .hint").textContent = wish.clear ? say.save_clear_help : say.save_clear_not;
    clear.disabled = !wish.clear;
    list.append(new Option(say.save_drawn, ""));
    for (const group of new Set(sizes.map((one) => one.group))) {
      const box = document.createElement("optgroup");
      box.label = group;
      box.append(...sizes.filter((one) => one.group === group).map((one) => new Option(one.name, one.id)));
      list.append(box);
    }
    list.value = wish.size || "";
    const no = button(say.cancel), go = button(say.save_go, "key"), told = part(".save-told");
    part(".row-actions").append(no, go);
    no.onclick = () => dialog.close();
    go.onclick = async () => {
      const asked = new URLSearchParams(wish.query || "");
      if (list.value) asked.set("size", list.value);
      if (clear.checked) asked.set("clear", "1");
      go.disabled = true;
      told.className = "save-told";
      told.textContent = say.save_busy;
      try {
        const answer = await fetch(`${wish.zip ? "files/avatars.zip" : `files/picture/${encodeURIComponent(wish.id)}`}?${asked}`);
        if (!answer.ok) throw (await answer.json().catch(() => ({}))).code || "";
        const link = document.createElement("a");
        link.href = URL.createObjectURL(await answer.blob());
        link.download = list.value ? wish.name.replace(/(\.\w+)$/, `-${list.value}$1`) : wish.name;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 60000);
        dialog.close();
      } catch (code) {
        told.className = "save-told save-bad";
        told.textContent = code === "not-plain" ? say.save_not_plain : say.save_failed;
      }
      go.disabled = false;
    };
    open(dialog, opener);
    list.focus();
  }

  // A word against a refusal, for the host.
  function appeal(source, trigger) {
    const say = words();
    const dialog = make(`<dialog class="sheet appeal"><form method="dialog"><h2></h2><p class="hint"></p>
      <label><span></span><textarea rows="4" maxlength="1000" required></textarea></label><div class="row-actions"></div></form></dialog>`);
    const part = (name) => dialog.querySelector(name);
    part("h2").textContent = say.appeal_title;
    part(".hint").textContent = source.dataset.kind === "text" ? say.appeal_help_text : source.dataset.kind === "photo" ? say.appeal_help_photo : say.appeal_help;
    part("label span").textContent = say.appeal_reason;
    const no = button(say.cancel), go = button(say.appeal_send, "key");
    go.type = "submit";
    part(".row-actions").append(no, go);
    no.onclick = () => dialog.close();
    part("form").onsubmit = (event) => {
      event.preventDefault();
      dialog.close();
      trigger("click", { do: "appeal", kind: source.dataset.kind, id: source.dataset.id, reason: part("textarea").value });
    };
    open(dialog, source);
    part("textarea").focus();
  }

  // Selecting avatars changes what the toolbar downloads or deletes.
  const selected = (element) => [...element.querySelectorAll('[data-local="select"]:checked')].map((one) => one.value);
  function showSelected(element) {
    const ids = selected(element), link = element.querySelector('[data-local="zip-selected"]');
    if (!link) return;
    link.href = ids.length ? `${link.dataset.base}?${ids.map((id) => `id=${encodeURIComponent(id)}`).join("&")}` : link.dataset.all;
    const label = link.querySelector('[data-role="zip-label"]');
    label.textContent = ids.length ? label.dataset.some : label.dataset.all;
    const count = element.querySelector(".selected-count");
    count.hidden = !ids.length;
    count.textContent = count.dataset.many.replace("#", ids.length);
    element.querySelector('[data-local="delete-selected"]').hidden = !ids.length;
  }
  async function deleteSelected(source, element, trigger) {
    const ids = selected(element), say = words();
    if (!ids.length || !(await confirm(counted(ids.length, say.delete_one, say.delete_some), say.delete, source))) return;
    trigger("click", { do: "delete", id: ids.join(",") });
  }

  // The style gallery: search, kind and picks are the browser's; Python gets the picked ids.
  function styles(element, props, watch) {
    const sync = () => {
      const picked = [...element.querySelectorAll('[data-local="style"]:checked')].map((one) => one.value);
      props.value = JSON.stringify(picked);
      countStyles(element, picked.length);
    };
    element.addEventListener("change", (event) => { if (event.target.dataset.local === "style") sync(); });
    element.addEventListener("input", (event) => { if (event.target.dataset.local === "style-search") filter(element); });
    const restore = () => {
      let picked = [];
      try { picked = JSON.parse(props.value || "[]"); } catch { picked = []; }
      for (const box of element.querySelectorAll('[data-local="style"]')) box.checked = picked.includes(box.value);
      countStyles(element, picked.length);
      filter(element);
    };
    watch(["value", "cards"], restore);
    restore();
  }
  function countStyles(element, count) {
    const line = element.querySelector(".styles-count");
    if (line) line.textContent = count === 0 ? line.dataset.none : counted(count, line.dataset.one, line.dataset.many);
  }
  function likeStyle(source, element, trigger) {
    const on = source.getAttribute("aria-pressed") !== "true";
    source.setAttribute("aria-pressed", String(on));
    source.classList.toggle("on", on);
    source.closest(".style").dataset.liked = on ? "yes" : "no";
    filter(element);
    trigger("click", { do: "like_style", id: source.dataset.id, on: on ? "yes" : "no" });
  }
  function pickCategory(source, element) {
    for (const one of element.querySelectorAll('[data-local="style-category"]')) one.setAttribute("aria-pressed", String(one === source));
    filter(element);
  }
  function filter(element) {
    const kind = element.querySelector('[data-local="style-category"][aria-pressed="true"]')?.dataset.id || "all";
    const word = (element.querySelector('[data-local="style-search"]')?.value || "").trim().toLowerCase();
    let seen = 0;
    for (const card of element.querySelectorAll(".style")) {
      const kept = kind === "liked" ? card.dataset.liked === "yes" : kind === "all" || card.dataset.category === kind;
      const fits = kept && card.dataset.words.includes(word);
      card.hidden = !fits;
      seen += fits;
    }
    const none = element.querySelector('[data-role="no-styles"]');
    if (none) {
      none.hidden = seen > 0;
      none.textContent = kind === "liked" && !word ? none.dataset.unliked : none.dataset.none;
    }
  }

  async function copyLink(source) {
    let done = words().copied;
    try { await navigator.clipboard.writeText(location.href); } catch { done = words().copy_failed; }
    flash(done);
  }
  let wanted = false;
  async function notify() {
    wanted = "Notification" in window && (await Notification.requestPermission()) === "granted";
    flash(wanted ? words().notify_on : words().notify_blocked);
  }
  function flash(text) {
    document.querySelector(".flash")?.remove();
    const line = make('<p class="flash" role="status"></p>');
    document.body.append(line);
    line.textContent = text;
    setTimeout(() => line.remove(), 5000);
  }

  // Address, title, language and focus follow the page that Python shows.
  let shown = "", states = {}, taking = false;
  function follow() {
    const top = document.querySelector("#top [data-page]");
    if (top) {
      if (top.dataset.url && !location.search.endsWith(top.dataset.url)) {
        const moved = shown && shown !== top.dataset.page;   // the browser's Back shows that page again
        history[moved ? "pushState" : "replaceState"](null, "", location.pathname + top.dataset.url);
      }
      document.title = top.dataset.title;
      document.documentElement.style.setProperty("--drop-words", JSON.stringify(words().drop));
      document.documentElement.style.setProperty("--fault-words", JSON.stringify(words().fault));
      document.documentElement.style.setProperty("--drop-more", JSON.stringify(words().drop_more));
      if (shown && shown !== top.dataset.page) {
        window.scrollTo(0, 0);
        setTimeout(() => document.querySelector(`#page-${top.dataset.page} h1`)?.focus({ preventScroll: true }), 150);
      }
      shown = top.dataset.page;
    }
    const fault = document.querySelector(".notice[data-field]:not([data-led])");
    if (fault) lead(fault);
    for (const run of document.querySelectorAll("[data-run]")) {
      const [id, state] = [run.dataset.run, run.dataset.state];
      if (shown && !(id in states) && !["done", "failed", "cancelled"].includes(state)) run.scrollIntoView({ block: "center", behavior: "smooth" });
      if (states[id] && states[id] !== state && run.dataset.ready && wanted && document.hidden) new Notification("Avatar Studio", { body: run.dataset.ready });
      states[id] = state;
    }
    // Answers to photos appear below the fold: what was dropped must not seem to vanish.
    const busy = document.querySelector('.cards[aria-busy="true"]');
    if (busy && !taking) busy.previousElementSibling.scrollIntoView({ block: "center", behavior: "smooth" });
    taking = Boolean(busy);
    for (const figure of document.querySelectorAll('[data-local="previews"]')) showPreview(figure);
  }
  // What a form still needs gets the keyboard, and is marked until it is touched.
  function lead(notice) {
    notice.dataset.led = "";
    const field = document.querySelector(`#${notice.dataset.field} :is(input, textarea)`);
    if (!field) return;
    field.setAttribute("aria-invalid", "true");
    field.addEventListener("input", () => field.removeAttribute("aria-invalid"), { once: true });
    field.focus();
  }
  function showPreview(figure) {
    const steps = [...figure.querySelectorAll(".preview")], slider = figure.querySelector("input");
    const at = slider ? Math.min(Number(slider.value), steps.length - 1) : steps.length - 1;
    steps.forEach((one, index) => one.classList.toggle("now", index === at));
    if (steps[at]) figure.querySelector(".preview-step").textContent = steps[at].dataset.step;
  }
  document.addEventListener("input", (event) => {
    if (event.target.dataset?.local === "preview-slide") showPreview(event.target.closest("figure"));
  });
  document.addEventListener("change", (event) => {
    if (event.target.dataset?.local === "select") showSelected(event.target.closest(".html-container") || document);
  });
  // A style whose preview was never drawn keeps its designed placeholder.
  document.addEventListener("error", (event) => { if (event.target.dataset?.optional !== undefined) event.target.remove(); }, true);
  function begin() {
    document.documentElement.lang = (navigator.language || "en").slice(0, 2) === "de" ? "de" : "en";
    window.addEventListener("popstate", () => location.reload());
    let due = false;
    new MutationObserver(() => {
      if (due) return;
      due = true;
      requestAnimationFrame(() => { due = false; follow(); });
    }).observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-page", "data-url", "data-state", "data-step"] });
    follow();
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();

  return { relay, styles };
})();
