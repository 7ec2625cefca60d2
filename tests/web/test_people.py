"""The pages and the API about people: figures, writing, decisions that hold, payments, transcripts, links in bulk."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from fake_server import a_study
from test_worker_api import error_of

from prefloop.schema import now
from prefloop.store import Earning, WorkerFigures
from prefloop.web.people import figures_of, payment_csv


def counts(**changes: Any) -> WorkerFigures:
    facts = {
        "worker_id": "w",
        "pseudonym": "kite",
        "is_simulated": False,
        "judgments": 8,
        "clicked_a": 8,
        "grades": (1,) * 8,
        "seconds": (3, 9.0, 35.0),
        "last_at": now(),
    }
    return WorkerFigures(**{**facts, **changes})


def test_figures_by_hand() -> None:
    figures = figures_of(counts())
    # Wilson at 8 of 8: centre (1 + z^2/16) / (1 + z^2/8), low end n / (n + z^2) = 8 / (8 + 3.8415) = 0.6756
    assert (figures.side_a.value, figures.side_a.n) == (1.0, 8)
    assert figures.side_a.low == pytest.approx(0.6756, abs=1e-4)
    # seconds 1, 3, 5: mean 3, s^2 = (35 - 27) / 2 = 4, error 2 / sqrt(3) = 1.1547, t(2) = 4.3027: half 4.968
    assert figures.seconds is not None
    assert figures.seconds.value == 3.0
    assert figures.seconds.high == pytest.approx(3 + 4.9683, abs=1e-3)
    assert figures.seconds.low == 0.0
    assert figures.grades_in_use == pytest.approx(8.0)
    always_one = figures_of(counts(grades=(8, 0, 0, 0, 0, 0, 0, 0), seconds=(1, 2.0, 4.0)))
    assert always_one.grades_in_use == pytest.approx(1.0)
    assert always_one.seconds is None


def test_a_payment_list_is_no_formula() -> None:
    line = Earning(
        worker_id="w",
        pseudonym='=HYPERLINK("http://evil")',
        tasks=2,
        judgments=8,
        worked_seconds=690.0,
        credited_seconds=30.0,
        bonus_minor_units=250,
        paid_minor_units=0,
    )
    (row,) = csv.DictReader(io.StringIO(payment_csv([line])))
    assert row["pseudonym"] == '\'=HYPERLINK("http://evil")'
    assert (row["worked_minutes"], row["credited_minutes"], row["bonus_minor_units"]) == ("11.5", "0.5", "250")


async def test_a_pause_holds_at_once_and_ends(open_room: Callable[..., Any]) -> None:
    async with open_room(cache_seconds=60.0) as room:
        study = a_study(room.store)
        worker, researcher = await room.worker(study), await room.researcher()
        id = (await worker.get("/api/me")).json()["worker_id"]
        form = {"study": study.id, "reason": "spoke with them"}
        for kind, status in (("pause", 403), ("resume", 200), ("exclude", 403)):
            done = await researcher.post(f"/researcher/people/{id}/decisions", data={**form, "kind": kind})
            assert done.status_code == 303
            answer = await worker.get(f"/api/studies/{study.id}/state")
            assert answer.status_code == status, kind
        assert answer.json()["error"]["code"] == "excluded"
        page = await researcher.get(f"/researcher/people/{id}?study={study.id}")
        assert page.text.count("spoke with them") == 3


async def test_a_worker_withdraws_on_the_page(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        worker, other = await room.worker(study), await room.worker(study)
        for one in (worker, other):
            await one.judge(await one.turn(await one.begin()))
        path = f"/study/{study.id}/withdraw"
        assert (await worker.http.post(path)).status_code == 422  # not without the tick
        assert len(list(room.store.judged(study_id=study.id))) == 2
        me = (await worker.get("/api/me")).json()["worker_id"]
        for status in (303, 403):  # a second click changes nothing
            assert (await worker.http.post(path, data={"sure": "yes"})).status_code == status
        assert [one.kind for one in room.store.decisions(me)] == ["withdraw"]
        (left,) = room.store.judged(study_id=study.id)
        assert left.judgment.worker_id == (await other.get("/api/me")).json()["worker_id"]
        assert error_of(await worker.get(f"/api/studies/{study.id}/state")) == (403, "withdrawn")
        page = await worker.http.get(f"/study/{study.id}", headers={"Accept": "text/html"})
        assert "You have withdrawn your consent" in page.text


async def test_figures_writing_and_transcript(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        worker, researcher = await room.worker(study), await room.researcher()
        conversation = await worker.begin()
        await worker.judge(await worker.turn(conversation, "How do I boil an <b>egg</b>?"), 2)
        await worker.judge(await worker.turn(conversation, "And a soft one?"), 7)
        people = (await researcher.get("/researcher/people")).text
        name = (await worker.get("/api/me")).json()["pseudonym"]
        assert name in people
        assert "0.50" in people  # one for A of two
        id = (await worker.get("/api/me")).json()["worker_id"]
        person = (await researcher.get(f"/researcher/people/{id}?study={study.id}")).text
        assert "How do I boil an &lt;b&gt;egg" in person
        found = (await researcher.get(f"/researcher/transcripts?study={study.id}&q=BOIL+an")).text
        assert "boil an &lt;b&gt;egg" in found
        assert "soft one" not in found
        shown = (await researcher.get(f"/researcher/transcripts/{conversation}")).text
        assert "grade 2, A is better" in shown
        assert "grade 7, B is better" in shown
        assert shown.count('class="prose"') == 4
        assert (await researcher.get("/researcher/transcripts/none")).status_code == 404
        assert (await worker.get("/researcher/people")).status_code == 401


async def test_the_api_has_the_pages_rights(open_room: Callable[..., Any]) -> None:
    from test_accounts import set_up

    async with open_room() as room:
        study = a_study(room.store)
        worker = await room.worker(study)
        await worker.judge(await worker.turn(await worker.begin()), 2)
        id = (await worker.get("/api/me")).json()["worker_id"]
        researcher, reviewer = await set_up(room, "Ben", "researcher"), await set_up(room, "Cam", "reviewer")
        at = f"/api/research/studies/{study.id}"
        (line,) = (await reviewer.get(f"{at}/workers")).json()
        assert (line["counts"]["judgments"], line["side_a"]["n"], line["standing"]) == (1, 1, "active")
        assert (await reviewer.get("/api/research/studies")).json()[0]["progress"]["judgments"] == 1
        assert (await reviewer.get(at)).json()["workers"][0]["judgments"] == 1
        assert len((await reviewer.get(f"{at}/messages?q=hello")).json()) == 1
        note = {"kind": "note", "reason": "writes well"}
        assert (await reviewer.post(f"/api/research/workers/{id}/decisions", json=note)).status_code == 201
        for path, body in (
            (f"/api/research/workers/{id}/decisions", {"kind": "pause", "reason": "x"}),
            (f"{at}/state", {"state": "paused"}),
            (f"{at}/invitations", {}),
            (f"{at}/payments", {"key": "k", "worker_id": id, "kind": "bonus", "minor_units": 5}),
        ):
            assert (await reviewer.post(path, json=body)).status_code == 403, path
            assert (await researcher.post(path, json=body)).status_code in (200, 201), path
        assert (await reviewer.get(f"{at}/payments")).status_code == 403
        (earned,) = (await researcher.get(f"{at}/payments")).json()
        assert earned["bonus_minor_units"] == 5
        listed = await researcher.get(f"/researcher/payments.csv?study={study.id}")
        assert listed.headers["content-type"].startswith("text/csv")
        assert listed.text.splitlines()[1].startswith(id)
        kinds = [one["kind"] for one in (await reviewer.get(f"/api/research/workers/{id}/decisions")).json()]
        assert kinds == ["note", "pause"]


async def test_links_in_bulk_let_each_one_person_in(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        researcher = await room.researcher()
        form = {"study": study.id, "links": "3", "pseudonym": "kite"}
        page = await researcher.post("/researcher/invitations", data=form)
        links = re.findall(r"http://testserver/join/[\w-]+", page.text)
        assert len(set(links)) == 3
        names = []
        for link in links:
            client = room.http()
            await client.get(link)
            names.append((await client.get("/api/me")).json()["pseudonym"])
        assert names == ["kite-1", "kite-2", "kite-3"]


async def test_a_study_is_begun_and_changed_on_the_page(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        a_study(room.store)
        researcher = await room.researcher()
        page = (await researcher.get("/researcher/new-study")).text
        weights = re.findall(r'name="(weight:[^"]+)"', page)
        assert len(weights) == 2
        form = {
            **{"name": "Spring", "mode": "red_team", "tranche": "base", "turns_per_conversation": "3"},
            **{"target_comparisons": "40", "overlap": "0.25", "compare": "distinct", "tasks_per_worker": "2"},
            **{"completion_code": "C0DE", weights[0]: "1", weights[1]: "3"},
        }
        for wrong, fault in (
            ({"overlap": "2"}, "overlap"),
            ({"turns_per_conversation": "many"}, "must be a number"),
            ({weights[1]: ""}, "needs 2 snapshots"),
            ({"completion_url": "http://x"}, "https"),
            ({"name": ""}, "name"),
        ):
            refused = await researcher.post("/researcher/new-study", data={**form, **wrong})
            assert refused.status_code == 422
            assert fault in refused.text.split('role="alert"')[1][:400]
            assert "C0DE" in refused.text  # nothing typed is lost
        begun = await researcher.post("/researcher/new-study", data=form)
        assert begun.status_code == 303
        study = room.store.studies()[-1]
        assert (study.name, study.mode.value, study.overlap, study.target_comparisons) == (
            "Spring",
            "red_team",
            0.25,
            40,
        )
        assert [share.weight for share in study.snapshots] == [1.0, 3.0]
        assert room.store.study_phases(study.id).tasks_per_worker == 2

        change = {
            weights[0]: "2",
            weights[1]: "3",
            "tasks_per_worker": "",
            "consent": "Please.",
            "consent_version": "7",
        }
        at = f"/researcher/studies/{study.id}/edit"
        assert 'value="C0DE"' in (await researcher.get(at)).text
        assert (await researcher.post(at, data=change)).status_code == 303
        phases = room.store.study_phases(study.id)
        assert (phases.tasks_per_worker, phases.consent, phases.completion_code) == (None, "Please.", "C0DE")
        assert [share.weight for share in room.store.study(study.id).snapshots] == [2.0, 3.0]
        same_version = await researcher.post(at, data={**change, "consent": "Other words."})
        assert same_version.status_code == 422
        alone = await researcher.post(at, data={**change, weights[0]: "0"})
        assert "two different snapshots" in alone.text


async def test_a_study_is_begun_over_the_api(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        a_study(room.store)
        researcher = await room.researcher()
        made = await researcher.post("/api/research/studies", json={"name": "Over HTTP", "overlap": 0.5})
        assert made.status_code == 201, made.text
        at = f"/api/research/studies/{made.json()['id']}"
        assert (await researcher.post("/api/research/studies", json={"name": "Over HTTP"})).status_code == 422
        assert (await researcher.post("/api/research/studies", json={"name": "x", "nmae": 1})).status_code == 422
        assert (await researcher.put(f"{at}/phases", json={"tasks_per_worker": 3})).json()["tasks_per_worker"] == 3
        shares = [{"snapshot_id": room.store.snapshot("base").id, "weight": 2.0}]
        assert (await researcher.put(f"{at}/snapshots", json=shares)).json()["snapshots"] == shares
