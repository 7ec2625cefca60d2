"""Platforms that send people: Prolific's parameters, codes, statuses and bonuses; the way back goes to listed hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fake_server import a_study

from prefloop.errors import DataError
from prefloop.store import Payment
from prefloop.study import StudyPhases
from prefloop.web.platforms import Arrival, Prolific, is_allowed

PERSON, STUDY, SESSION = "60ffe5c8371090c7041d43f8", "5f0000000000000000000001", "5f0000000000000000000002"
LINK = {"PROLIFIC_PID": PERSON, "STUDY_ID": STUDY, "SESSION_ID": SESSION}


def test_prolifics_conventions() -> None:
    prolific = Prolific()
    assert prolific.parse({"utm": "x"}) is None
    assert prolific.parse(LINK) == Arrival("prolific", PERSON, STUDY, SESSION)
    for bad in ({**LINK, "SESSION_ID": "'; --"}, {"PROLIFIC_PID": PERSON}, {**LINK, "STUDY_ID": "a" * 101}):
        with pytest.raises(DataError, match="letters and digits"):
            prolific.parse(bad)
    assert prolific.complete("C0 DE&x") == "https://app.prolific.com/submissions/complete?cc=C0+DE%26x"
    table = "\ufeffSubmission id,Participant id,Status\ns1,p1,APPROVED\ns2,p2,AWAITING REVIEW\ns3,p3,TIMED-OUT\n"
    assert prolific.status(table) == {"s1": "approved", "s2": "submitted", "s3": "timed_out"}
    with pytest.raises(DataError, match="Line 2 has the status 'LOST'"):
        prolific.status("Submission id,Status\ns1,LOST\n")
    with pytest.raises(DataError, match="no column 'Status'"):
        prolific.status("Submission id,Time\n")
    assert prolific.bonus([("p1", 425), ("p2", 5), ("p3", 0)]) == "p1,4.25\np2,0.05\n"


@pytest.mark.parametrize(
    "address",
    [
        "http://app.prolific.com/x",
        "https://app.prolific.com.evil.org/x",
        "https://evil.org/app.prolific.com",
        "https://app.prolific.com@evil.org/x",
        "https://app.prolific.com:8443/x",
        "https://[half",
        "javascript:alert(1)",
        "",
    ],
)
def test_no_other_address_is_allowed(address: str) -> None:
    assert not is_allowed(address, ("app.prolific.com",))
    assert is_allowed("https://APP.prolific.com/x?cc=1", ("app.prolific.com",))


async def a_task(http: Any, study_id: str) -> dict[str, Any]:
    """One judged conversation; the state after it."""
    begun = (await http.post("/api/conversations", json={"study_id": study_id})).json()["conversation_id"]
    sent = (await http.post(f"/api/conversations/{begun}/messages", json={"text": "Hello"})).json()
    await http.get(sent["stream_url"])
    await http.post(f"/api/comparisons/{sent['comparison_id']}/judgment", json={"grade": 2})
    answer = await http.post(f"/api/studies/{study_id}/finish")
    return dict(answer.json())


async def test_a_person_of_a_platform_is_one_worker_and_finds_the_way_back(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store, turns_per_conversation=1)
        phases = StudyPhases(tasks_per_worker=1, completion_code="C0DE")
        room.store.set_study_phases(study.id, phases)
        token = room.store.add_invitation(study.id, uses=2)
        first, second, third, unnamed = room.http(), room.http(), room.http(), room.http()
        for http in (first, second):  # the same person, in another browser
            assert (await http.get(f"/join/{token}", params=LINK)).status_code == 303
        ids = [(await http.get("/api/me")).json()["worker_id"] for http in (first, second)]
        assert ids[0] == ids[1]
        (kept,) = room.store.arrivals(study.id)
        assert (kept.external_id, kept.external_session_id, kept.worker_id) == (PERSON, SESSION, ids[0])
        assert (await third.get(f"/join/{token}", params={**LINK, "PROLIFIC_PID": "other"})).status_code == 303
        assert (await third.get("/api/me")).json()["worker_id"] != ids[0]
        assert (await unnamed.get(f"/join/{token}")).status_code == 409  # both places are taken
        broken = await unnamed.get(f"/join/{token}", params={**LINK, "SESSION_ID": "<script>"})
        assert broken.status_code == 422
        state = await a_task(first, study.id)
        way_back = "https://app.prolific.com/submissions/complete?cc=C0DE"
        assert state["completion"] == {"code": "C0DE", "url": way_back}
        elsewhere = phases.model_copy(update={"completion_url": "https://evil.example/x"})
        room.store.set_study_phases(study.id, elsewhere)
        state = (await first.get(f"/api/studies/{study.id}/state")).json()
        assert state["completion"] == {"code": "C0DE", "url": ""}  # the code is told all the same

        bonus = {"worker_id": ids[0], "study_id": study.id, "kind": "bonus", "reason": "Thanks", "by": "Ada"}
        room.store.add_payment(Payment(key="1", minor_units=425, **bonus))
        researcher = await room.researcher()
        listed = await researcher.get(f"/researcher/bonuses/prolific.csv?study={study.id}")
        assert listed.text == f"{PERSON},4.25\n"
        assert (await researcher.get(f"/researcher/bonuses/nowhere.csv?study={study.id}")).status_code == 404
        assert (await first.get(f"/researcher/bonuses/prolific.csv?study={study.id}")).status_code == 401


async def test_the_platforms_statuses_stand_beside_the_work(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store, turns_per_conversation=1)
        token = room.store.add_invitation(study.id, uses=3)
        worked, idle = room.http(), room.http()
        await worked.get(f"/join/{token}", params=LINK)
        await idle.get(f"/join/{token}", params={**LINK, "PROLIFIC_PID": "idle", "SESSION_ID": "s2"})
        await a_task(worked, study.id)
        ids = [(await http.get("/api/me")).json()["worker_id"] for http in (worked, idle)]
        table = f"Submission id,Status\n{SESSION},AWAITING REVIEW\ns3,APPROVED\n"
        researcher = await room.researcher()
        path = f"/api/research/studies/{study.id}/submissions"
        found = (await researcher.post(f"{path}/prolific", json={"export": table})).json()
        assert [tuple(one.values()) for one in found] == [
            (SESSION, "submitted", ids[0], 1, 1),
            ("s2", None, ids[1], 0, 0),  # here, and unknown there
            ("s3", "approved", None, 0, 0),  # approved there, never seen here
        ]
        assert (await researcher.post(f"{path}/nowhere", json={"export": table})).status_code == 404
        assert (await worked.post(f"{path}/prolific", json={"export": table})).status_code == 401
        form = {"study": study.id, "platform": "prolific"}
        page = await researcher.post("/researcher/submissions", data=form, files={"export": table.encode()})
        assert page.status_code == 200
        assert "never arrived" in page.text
        assert "not in the export" in page.text
        for damaged, words in ((b"Id,Time\n", "no column"), (b"\xff\xfe", "choose the CSV export")):
            answer = await researcher.post("/researcher/submissions", data=form, files={"export": damaged})
            assert answer.status_code == 422
            assert words in answer.text
