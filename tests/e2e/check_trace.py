#!/usr/bin/env python3
"""check_trace.py FILE STEPS MODELS: is the trace sound, with that many executed steps at least?

Every event has its fields, slices of one track do not overlap, a step is planned before it is
executed before it is committed, names are those of the models. Prints `events=N preempted=N`.
"""
import json
import sys
from collections import defaultdict


def main(path, steps, models):
    with open(path, encoding="utf-8") as file:
        trace = json.load(file)
    events = trace["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    tracks, when, preempted = defaultdict(list), defaultdict(dict), 0
    for event in events:
        if event["ph"] == "M":
            continue
        model = names[event["tid"]].split(":")[0]
        preempted += event["args"]["requests"] if event["name"] == "preempt" else 0
        if event["ph"] != "X":
            continue
        tracks[event["tid"]].append((event["ts"], event["dur"]))
        if "step" in event["args"]:
            assert event["args"]["status"] == 0, event
            assert event["args"]["rows"] >= event["args"]["seqs"] > 0, event
            when[model, event["args"]["step"]][event["name"]] = event["ts"]
    for slices in tracks.values():
        slices.sort()
        for (ts, dur), (following, _) in zip(slices, slices[1:]):
            assert ts + dur <= following + 0.002, (ts, dur, following)
    whole = [w for w in when.values() if len(w) == 3]
    for w in whole:
        assert w["plan"] <= w["execute"] <= w["commit"], w
    assert len(whole) >= steps, (len(whole), steps)
    assert len({model for model, _ in when}) == models, names
    assert sum(e["name"] == "publish" and e["args"]["tokens"] for e in events) > 0
    assert int(trace["otherData"]["events"]) == sum(e["ph"] != "M" for e in events)
    print(f"events={len(events)} preempted={preempted}")


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
