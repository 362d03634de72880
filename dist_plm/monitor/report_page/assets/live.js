"use strict";

/* Asks for what is new since the last answer, for as long as the page is open. */
async function follow(view, live) {
  const status = document.getElementById("status");
  for (;;) {
    await new Promise((done) => setTimeout(done, 1000 * live.seconds));
    if (document.hidden) continue;
    try {
      let changed = false, { overview } = view;
      for (const [index, run] of view.runs.entries()) {
        const answer = await fetch(`news?run=${index}&generation=${run.generation}&from=${run.records}&overview=${overview.number}`);
        if (!answer.ok) throw new Error(String(answer.status));
        const news = await answer.json();
        Object.assign(run, { generation: news.generation, records: news.records });
        if (news.overview) {
          overview = news.overview;
          view.runs.forEach((one, number) => { one.tables = overview.tables[number]; });
          changed = true;
        }
        if (!news.columns) continue;
        const columns = await decodeColumns(news.columns);
        run.data = news.whole ? columns : appendColumns(run.data, columns);
        Object.assign(run, news.facts);
        run.finish();
        changed = true;
      }
      if (changed) view.grown(overview);
      status.textContent = `live: ${view.runs.map((run) => (run.data.rows ? `step ${Math.round(axisOf(run.data, "step").at(-1)).toLocaleString("en")}` : "no step logged yet")).join(", ")}, as of ${new Date().toLocaleTimeString()}`;
    } catch (error) {
      status.textContent = `The run is not followed any more (${error.message}): is launch/watch.py still running? What is below is what it last said.`;
    }
  }
}
