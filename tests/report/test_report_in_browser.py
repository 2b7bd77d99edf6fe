"""A report in a real browser: Debian's Chromium without a window, driven by playwright; skipped where one lacks."""

import csv
import io
import re
import shutil
from pathlib import Path

import pytest
from runs import EVIL, RESULTS, SAVED, hostile, made_matrix, saved
from synthetic_comparison import make_comparison

from cka_tools.comparison.findings import stated
from cka_tools.comparison.readout_results import open_run
from cka_tools.comparison.record import csv_bytes
from cka_tools.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium here: `apt-get install chromium`", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here: `pip install playwright`")

LONG_NAME = "runs/a-rather-long-name-of-a-training-run-with-seeds/checkpoint-000123456/final"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports by name: of one comparison, of hostile runs of all kinds, of the largest runs."""
    folder = tmp_path_factory.mktemp("reports")
    bad = [saved(hostile(name), folder / "hostile" / name) for name in (*SAVED, "evaluation")]
    large = [
        saved(make_comparison(28, n=40, control="c", names=(LONG_NAME, f"{LONG_NAME}-2")), folder / "wide"),
        saved(made_matrix(), folder / "matrix"),
    ]
    named = {"one": [RESULTS / "detour"], "bad": bad, "large": large}
    with pytest.MonkeyPatch.context() as patch:  # one figure is drawn, for the print
        patch.setattr("cka_tools.report.write.picture", lambda result, dpi: None)
        made = {name: write_report(runs, folder / f"{name}.html") for name, runs in named.items() if name != "one"}
    return made | {"one": write_report(named["one"], folder / "one.html")}


@pytest.fixture
def visit(browser, reports):
    """Open a report, offline; at the end there were no errors, and nothing was asked of a network."""
    contexts, problems, asked = [], [], []

    def visit(name: str, *, width: int = 1200, **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, offline=True, accept_downloads=True, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(reports[name].as_uri())
        return page

    visit.problems, visit.asked = problems, asked
    yield visit
    for context in contexts:
        context.close()
    assert not problems
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)


def draw_all(page) -> None:
    """Bring every plot into view once."""
    for canvas in page.query_selector_all(".canvas"):
        canvas.scroll_into_view_if_needed()
    playwright.expect(page.locator(".canvas:not(:has(.main-svg))")).to_have_count(0)


def point_at(page, canvas: str, x: float, y: float, *expected: str) -> None:
    """Bring the mouse to a point of a plot, which must then say what is expected."""
    page.locator(f"#{canvas}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#{canvas} .main-svg")
    place = page.evaluate(
        """([id, x, y]) => {
            const div = document.getElementById(id), box = div.getBoundingClientRect(), all = div._fullLayout;
            return [box.x + all.xaxis._offset + all.xaxis.l2p(x), box.y + all.yaxis._offset + all.yaxis.l2p(y)];
        }""",
        [canvas, x, y],
    )
    page.mouse.move(place[0] - 30, place[1])
    page.mouse.move(*place, steps=4)
    for text in expected:
        playwright.expect(page.locator(f"#{canvas} .hoverlayer")).to_contain_text(text)


def test_pointing_at_a_layer_says_its_numbers(visit):
    page = visit("one")
    entry = open_run(RESULTS / "detour").record["layers"][3]
    numbers = stated(entry["divergence"]), stated(entry["control"])
    point_at(page, "run-1-plot-1", 3, 100 * entry["divergence"]["value"], "layer 3", *numbers)
    matrix = open_run(RESULTS / "detour").arrays["matrix.debiased"]
    point_at(page, "run-1-plot-4", 5, 2, "A 2, B 5", f"CKA {matrix[2, 5]:.3f}")


def test_tables_are_sorted_by_number_with_the_means_last(visit):
    page = visit("one")
    heads = [text.strip() for text in page.locator("th button").all_text_contents()]
    at = heads.index("divergence %")

    def column(k: int) -> list[str]:
        return page.locator(f".table tbody td:nth-child({k + 1})").all_text_contents()

    layers = open_run(RESULTS / "detour").record["layers"]
    values = [entry["divergence"]["value"] for entry in layers]
    order = sorted(range(len(values)), key=values.__getitem__)
    button = page.locator("th button").nth(at)
    button.click()
    assert column(0) == [str(layers[k]["layer_a"]) for k in order]
    assert page.locator("th").nth(at).get_attribute("aria-sort") == "ascending"
    button.click()
    assert column(0) == [str(layers[k]["layer_a"]) for k in reversed(order)]
    assert page.locator("tfoot td:first-child").all_text_contents() == ["early 0–2", "mean"]


def test_a_table_is_downloaded_as_its_csv(visit):
    page = visit("one")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == "detour-layers.csv"
    content = Path(download.value.path()).read_bytes()
    assert content == csv_bytes(open_run(RESULTS / "detour").to_frame())
    assert len(list(csv.DictReader(io.StringIO(content.decode())))) == 8


def test_a_table_is_copied_for_a_spreadsheet_without_formulas(visit):
    page = visit("bad", permissions=["clipboard-read", "clipboard-write"])
    table = page.locator("#run-6 .table")  # grafts of hostile names
    table.get_by_role("button", name="Copy").click()
    playwright.expect(table.locator("[data-copy]")).to_have_text("Copied")
    rows = [line.split("\t") for line in page.evaluate("navigator.clipboard.readText()").splitlines()]
    shown = [row.locator("td").all_text_contents() for row in table.locator("tbody tr").all()[:3]]
    assert [[cell.removeprefix("'") for cell in row] for row in rows[1:4]] == shown
    assert not [cell for row in rows for cell in row if re.match(r"[=+@]|-(?![\d.])", cell)]


def test_hostile_names_and_texts_do_nothing_and_are_shown_as_they_are(visit):
    page = visit("bad")
    draw_all(page)
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("img").count() == 0  # no picture was drawn here
    assert page.locator("script").count() == 4
    assert page.locator("[onerror], [onload], svg a, a[href^=javascript]").count() == 0
    text = page.locator("main").inner_text()
    for evil in EVIL:
        assert evil in text
    told = page.evaluate("[...document.querySelectorAll('.canvas text')].map(one => one.textContent).join(' ')")
    assert "<script>" in told
    assert page.evaluate("typeof hacked") == "undefined"


def test_the_policy_blocks_every_other_script_and_every_request(visit):
    page = visit("one")
    blocked = page.evaluate(
        """async () => {
            const seen = [];
            document.addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            const other = Object.assign(document.createElement("script"), { src: "data:text/javascript,hacked=1" });
            const picture = Object.assign(new Image(), { src: "http://127.0.0.1:9/x.png" });
            const frame = Object.assign(document.createElement("iframe"), { src: "data:text/html,x" });
            document.body.append(script, other, picture, frame);
            document.body.insertAdjacentHTML("beforeend", "<p id=p onclick='window.hacked = 1'>x</p>");
            document.getElementById("p").click();
            await fetch("http://127.0.0.1:9/").catch(() => 0);
            // Later, as code of the page: what a debugger evaluates itself is let through.
            await new Promise((done) => setTimeout(() => {
                try { new Function("window.hacked = 1")(); } catch (error) { seen.push(error.name); }
                setTimeout(done, 300);
            }));
            return seen;
        }"""
    )
    assert page.evaluate("typeof hacked") == "undefined"
    assert {"script-src-elem", "script-src-attr", "img-src", "frame-src", "connect-src", "EvalError"} <= set(blocked)
    for told in (visit.problems, visit.asked):  # the browser tells of each
        told.clear()


def test_a_print_has_the_static_figure_and_no_buttons(visit):
    page = visit("one")
    page.emulate_media(media="print")
    assert page.locator(".static img").is_visible()
    for hidden in (".plots", ".tools", "button.figure-switch"):
        assert not page.locator(hidden).first.is_visible()
    printed = page.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) in (2, 3)
    assert re.search(rb"/Subtype\s*/Image", printed)


def test_a_print_of_the_widest_tables_fits_its_pages(visit):
    page = visit("bad", width=680)  # A4 within its margins
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") == 680


def test_without_scripts_the_static_figure_is_there(visit):
    page = visit("one", java_script_enabled=False)
    assert page.locator(".static img").is_visible()
    assert not page.locator(".tools").first.is_visible()


@pytest.mark.parametrize(("scheme", "width"), [("light", 400), ("dark", 1200)])
def test_nothing_is_wider_than_the_page_and_colours_follow_the_scheme(visit, scheme, width):
    page = visit("large", width=width, color_scheme=scheme)
    draw_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert page.locator(".canvas .xtick text").first.evaluate("one => getComputedStyle(one).fill") == ink
    # 28 × 28 layers and 10 models, everything drawn: few enough for a page to scroll.
    assert page.evaluate("document.querySelectorAll('*').length") < 6000
