(function () {
  const svg = document.documentElement, left = 10, width = 1200, letter = 7.3;
  const boxes = Array.from(svg.querySelectorAll("g.f")).map(function (g) {
    const rect = g.querySelector("rect"), title = g.querySelector("title").textContent;
    return {
      g: g, rect: rect, text: g.querySelector("text"), name: title.slice(0, title.lastIndexOf(" (")),
      x: +rect.getAttribute("x"), w: +rect.getAttribute("width"), y: +rect.getAttribute("y")
    };
  });
  function show(root) {
    const scale = width / root.w;
    boxes.forEach(function (box) {
      const within = box.x >= root.x - 0.02 && box.x + box.w <= root.x + root.w + 0.02;
      const calls = box.y > root.y && box.x <= root.x + 0.02 && box.x + box.w >= root.x + root.w - 0.02;
      box.g.style.display = (within && box.y <= root.y) || calls ? "" : "none";
      const x = calls ? left : left + (box.x - root.x) * scale, w = calls ? width : box.w * scale;
      box.rect.setAttribute("x", x);
      box.rect.setAttribute("width", w);
      box.text.setAttribute("x", x + 3);
      const room = Math.floor((w - 6) / letter);
      box.text.textContent = box.name.length <= room ? box.name : room < 3 ? "" : box.name.slice(0, room - 2) + "..";
    });
  }
  boxes.forEach(function (box) { box.g.addEventListener("click", function () { show(box); }); });
  document.getElementById("search").addEventListener("click", function () {
    const words = prompt("Functions whose name contains:", "") || "";
    let found = 0;
    boxes.forEach(function (box) {
      const match = words !== "" && box.name.includes(words);
      box.g.classList.toggle("m", match);
      found += match;
    });
    document.getElementById("found").textContent = words === "" ? " " : found + " found";
  });
})();
