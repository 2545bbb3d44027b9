"""In which ways is a gateway attacked, one after the other?"""

from __future__ import annotations

from loadtests.hostile import over_h2, over_http
from loadtests.hostile.attack import Attack, nothing
from loadtests.hostile.models import DENSE, HEAVY

ATTACKS = (
    Attack("half-open", "1,000 connections on which nothing is said", over_http.half_open, 1000),
    Attack("slow heads", "500 clients send a head, a byte a second", over_http.slow_head, 500),
    Attack("slow bodies", "500 clients send a body, a byte a second, half of them in chunks",
           over_http.slow_body, 500),
    Attack("endless bodies", "32 clients send 60 MiB of a body of which more is to come",
           over_http.large_body, 32, ramp_s=2.0, every_s=60.0),
    Attack("slow reading", "200 clients ask for answers of 4 MiB, and read none",
           over_http.unread, 200, ramp_s=2.0, every_s=60.0),
    Attack("oversized", "heads, bodies, JSON and tensors that are too large or too deep, 40 a second",
           over_http.oversized, 40),
    Attack("malformed", "garbage, contradicting lengths, requests cut off or smuggled, 100 a second",
           over_http.malformed, 100),
    Attack("idle", "10,000 connections, half of them after a request", over_http.idle, 10_000, ramp_s=4.0),
    Attack("churn", "200 connections a second, a request on each, and a reset",
           over_http.churn, 200),
    Attack("pipelining", "8 clients send 50 requests at once, four times a second",
           over_http.pipeline, 8),
    Attack("settings flood", "16 clients send 400 SETTINGS frames, four times a second if they may",
           over_h2.settings_flood, 16, every_s=2.0),
    Attack("ping flood", "16 clients send 400 PINGs, four times a second if they may",
           over_h2.ping_flood, 16, every_s=2.0),
    Attack("rapid reset", "16 clients begin 400 streams and reset each, four times a second if they may",
           over_h2.rapid_reset, 16, every_s=2.0),
    Attack("continuation flood", "16 clients send a head of CONTINUATIONs that does not end",
           over_h2.continuation, 16, every_s=2.0),
    Attack("zero window", "50 clients ask for 8 answers of 4 MiB each, with no room for them",
           over_h2.zero_window, 50, ramp_s=2.0, every_s=60.0),
    Attack("thousands of streams", "10 clients begin 4,000 streams each",
           over_h2.many_streams, 10, every_s=5.0),
    Attack("flood", "500 clients ask the same model as fast as they are answered",
           nothing, 500, overload=True, model=DENSE),
    Attack("flood of heavy requests",
           "3,000 clients ask a model that has a thread as fast as they are answered, or refused",
           nothing, 3000, overload=True, model=HEAVY),
)  # fmt: skip
