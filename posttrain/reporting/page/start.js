document.documentElement.classList.add("js");
saveButtons();
drawCharts();
explorer(document.getElementById("explorer"));
