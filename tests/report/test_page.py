"""The report: what it says, that no name can break it, and what a person sees in a browser."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

import haqnas
from haqnas.artifact import Artifact
from haqnas.cli.main import run
from haqnas.devices.comparison import Comparison
from haqnas.devices.latency import Latency
from haqnas.evaluate import Accuracy
from haqnas.inspection import Inspection, LayerTimes, inspect
from haqnas.manifest import Baseline, Build
from haqnas.report.page import Report, render_page
from haqnas.report.trials import TrialRow, best_so_far, pareto_front, read_trials
from haqnas.search.study import Decision, Place, Study
from haqnas.space.outcome import SearchRecord
from tests.conftest import require_program
from tests.passes.networks import images, small

NASTY = "</script><b onclick=alert(1)>"
SCORES = (0.7, 0.9, None, 0.8, 0.95)
LATENCIES_S = (2e-6, 4e-6, 1e-6, 3e-6, 4e-6)


def trials() -> tuple[TrialRow, ...]:
    return tuple(
        TrialRow(
            number=number,
            strategy="marl",
            fidelity="ptq",
            score=score,
            latency=latency,
            choices={"conv": f"w{number + 2}a8", NASTY: "w8a8"},
            reason="the critic is not finite" if score is None else f"draw {number}",
        )
        for number, (score, latency) in enumerate(zip(SCORES, LATENCIES_S, strict=True))
    )


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("artefact")
    return haqnas.compile(small(), (images(1, 1, 6, 6),), output=folder, bits="w4a8", compare=False)


@pytest.fixture(scope="module")
def report(artefact: Artifact) -> Report:
    """With all figures; the first layer has a name that wants to break out."""
    found = inspect(artefact)
    rows = (replace(found.rows[0], name=NASTY), *found.rows[1:])
    times = LayerTimes(tuple(1e-6 * (index + 1) for index in range(len(rows))), "measured", "s", "local")
    accuracy = Accuracy("top-1", 0.9, 0.89, 100, 100, "val_data")
    fast, slow = (Latency("measured", "local", 10, median_s=median_s) for median_s in (1e-6, 2e-6))
    baseline = Baseline(
        Comparison(fast, slow, "time", 0.5, 0.49, 0.51, 10),
        *(Build(size, accuracy, {}) for size in (50, 100)),
        is_chosen=True,
        shipped="requested",
    )
    search = SearchRecord(
        *("marl", "gradient", 0.1, 0.01, 1.1e-6, 2e-6, "s", "a table"),
        *(50, 100, 0.01, "100 samples", 5),
        credit={"QUANT": 0.1, "ARCH": -0.05},
    )
    manifest = replace(artefact.manifest, baseline=baseline, search=search)
    summary = [("accuracy", "top-1 <89 %>"), ("latency", "1 us")]
    return Report(manifest, summary, Inspection(rows, found.found, True, times), trials())


def test_the_front_and_the_best_so_far() -> None:
    assert [trial.number for trial in pareto_front(trials())] == [0, 3, 4]
    assert best_so_far(trials()) == (0.7, 0.9, 0.9, 0.9, 0.95)
    assert pareto_front(()) == ()


def test_names_stay_text(report: Report) -> None:
    page = render_page(report)
    assert NASTY not in page
    assert "top-1 &lt;89 %&gt;" in page
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert NASTY in json.loads(data)["layers"]
    assert page.count("<script") == 3 + page.count('"<script') + page.count("'<script")


def test_a_plain_build_has_a_page_too(artefact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(artefact.directory)]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == artefact.directory / "report.html"
    page = path.read_text()
    assert 'id="bits"' in page
    assert 'id="tradeoff"' not in page
    assert artefact.manifest.request_sha256 in page
    artefact.verify()  # the page is no part of what is proven


def test_the_page_goes_where_it_is_told(
    artefact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "page.html"
    assert run(["report", str(artefact.directory), "-o", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(path)
    assert path.exists()
    assert run(["report", str(tmp_path)]) == 2
    assert "haqnas compile" in capsys.readouterr().err


def test_trials_are_read_from_the_journal_which_stays_as_it_is(tmp_path: Path) -> None:
    decisions = (Decision("conv", "QUANT", ("w8a8", "w4a8")), Decision("fc", "QUANT", ("w8a8", "w4a8")))
    path = tmp_path / "study.journal"
    study = Study(Place(path, None, "tests"), "net marl", decisions)
    for action, score in (((0, 1), 0.5), ((1, 0), None), ((1, 1), 0.25)):
        record = study.claim(action, {"strategy": "marl", "fidelity": "ptq", "latency": 2.0}, 10)
        assert record is not None
        study.finish(record, score, {"failure": "it broke"} if score is None else {"reason": "fine"})
    assert study.claim((0, 0), {}, 10) is not None  # begun, and not finished
    study.close()
    path.with_name("study.journal.lock").unlink()
    before = path.read_bytes()
    found = read_trials(path)
    assert [(trial.number, trial.score, trial.reason) for trial in found] == [
        *((0, 0.5, "fine"), (1, None, "it broke"), (2, 0.25, "fine"))
    ]
    assert found[0].choices == {"conv": "w8a8", "fc": "w4a8"}
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert read_trials(tmp_path / "none") == ()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    chromium, driver = (
        require_program("chromium", "chromium"),
        require_program("chromedriver", "chromium-driver"),
    )
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,2000",
    ):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield found
    found.quit()
    shutil.rmtree(profile, ignore_errors=True)


def click(browser: WebDriver, selector: str, index: int) -> None:
    """Where the middle of the element is: Plotly listens to the layer above its marks."""
    marks = browser.find_elements(By.CSS_SELECTOR, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", marks[index])
    webdriver.ActionChains(browser).move_to_element(marks[index]).pause(0.2).click().perform()


def details(browser: WebDriver) -> str:
    place = browser.find_element(By.ID, "details")
    WebDriverWait(browser, 10).until(lambda _: place.is_displayed())
    return place.text


def test_a_person_clicks_through_the_page(report: Report, browser: WebDriver, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_page(report), encoding="utf-8")
    browser.get(path.as_uri())
    figures = browser.find_elements(By.CSS_SELECTOR, ".figure")
    assert [figure.get_attribute("id") for figure in figures] == [
        *("builds", "tradeoff", "progress", "credit", "bits", "times", "prediction")
    ]
    WebDriverWait(browser, 30).until(
        lambda page: len(page.find_elements(By.CSS_SELECTOR, ".figure.js-plotly-plot")) == len(figures)
    )
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0

    click(browser, "#tradeoff .points path", 3)  # the failed trial has no point
    assert "4 (marl, ptq)" in details(browser)
    assert "w6a8" in details(browser)
    browser.find_element(By.CSS_SELECTOR, "#details button").click()
    assert not browser.find_element(By.ID, "details").is_displayed()

    click(browser, "#bits .points path", 0)
    assert NASTY in details(browser)
    assert report.inspection.rows[0].kernel in details(browser)
    assert browser.find_elements(By.CSS_SELECTOR, "#details b, #layers b") == []

    picture = tmp_path / "page.png"
    assert browser.save_screenshot(str(picture))
    assert picture.stat().st_size > 20_000  # a blank page of this size has 11 kB
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
