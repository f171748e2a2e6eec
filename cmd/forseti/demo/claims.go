package demo

import "fmt"

// Claim is one thing that Forseti promises, and what was measured of it.
type Claim struct {
	Name     string `json:"name"`
	Want     string `json:"want"`
	Measured string `json:"measured"`
	Pass     bool   `json:"pass"`
}

// Claims judges the numbers. Nothing but the numbers counts.
func Claims(n Numbers) []Claim {
	return []Claim{oneResult(n), nothingLost(n), killSwitchObeyed(n), refusedWait(n), lettersBalance(n), bothStories(n)}
}

func oneResult(n Numbers) Claim {
	return Claim{
		Name: "every published task has exactly one result",
		Want: "as many results as tasks; none missing, none replaced, none of a task that nobody published",
		Measured: fmt.Sprintf("%s acknowledged by NATS, %s: %s missing, %s replaced, %s extra%s%s", count(n.Published, "task"),
			count(n.Results, "result"), number(n.Missing), number(n.Replaced), number(n.Extra),
			some(n.Visitors, "; besides, %s published by somebody else", "task"), some(n.Unpublished, "; the producer gave up %s", "publish")),
		Pass: n.Published > 0 && n.Results == n.Published && n.Missing == 0 && n.Replaced == 0 && n.Extra == 0 && n.Visitors >= 0 && n.Unpublished == 0,
	}
}

func nothingLost(n Numbers) Claim {
	return Claim{
		Name: "nothing is lost",
		Want: "published = success + fallback + failed, and each failed one names a dead letter that is stored",
		Measured: fmt.Sprintf("%s = %s success + %s fallback + %s failed; %s of the failed without a dead letter%s", number(n.Published),
			number(n.Success), number(n.Fallback), number(n.Failed), number(n.FailedNotStored),
			some(n.Published-n.Success-n.Fallback-n.Failed, "; %s unaccounted for", "task")),
		Pass: n.Published > 0 && n.Published == n.Success+n.Fallback+n.Failed && n.FailedNotStored == 0 && n.OtherOutcome == 0,
	}
}

func killSwitchObeyed(n Numbers) Claim {
	k := n.Kill
	c := Claim{
		Name: "no attempt starts while the kill switch is on",
		Want: fmt.Sprintf("0 attempts begun after the node's word, and 0 requests at the payment service later than %.0f ms after it (what was on the wire)", k.ToleranceMS),
	}
	if k.Acks == 0 {
		c.Measured = "no node acknowledged the order"
		return c
	}
	c.Measured = fmt.Sprintf("in force %.1f ms after the push, on for %.2f s: %s begun of %s, the payment service saw %s on the wire and %s later; waiting tasks %s -> %s",
		k.AckMS, k.OnMS/1000, count(k.StartedWhileOn, "attempt"), number(k.Told), count(k.OnTheWire, "request"), number(k.Late), number(k.WaitingOn), number(k.WaitingOff))
	if k.Told != k.Ran {
		c.Measured += fmt.Sprintf("; the hooks heard of %s attempts, the handlers ran %s", number(k.Told), number(k.Ran))
	}
	if k.Otherwise == 0 {
		c.Measured += "; the payment service's log shows nothing at any other time either"
	}
	c.Pass = k.StartedWhileOn == 0 && k.Late == 0 && k.Otherwise > 0 && k.OnMS > 0 && k.Told > 0 && k.Told == k.Ran && k.WaitingOff > k.WaitingOn
	return c
}

func refusedWait(n Numbers) Claim {
	return Claim{
		Name: "what an open breaker or the kill switch refuses waits in the stream, unless a fallback answers",
		Want: fmt.Sprintf("0 results with outcome rejected, fetching paused or tasks given back, and more tasks in the stream than the %d that the node holds", n.Capacity),
		Measured: fmt.Sprintf("%s rejected; fetching paused %s, %s given back, up to %s in the stream at once", count(n.Rejected, "result"),
			count(n.Pauses, "time"), count(n.Refused, "task"), number(n.Peak)),
		Pass: n.Rejected == 0 && n.Refused+n.Pauses > 0 && n.Peak > n.Capacity,
	}
}

func lettersBalance(n Numbers) Claim {
	line := func(l Letters) string {
		return fmt.Sprintf("%s = %s pending + %s leased (under replay) + %s resolved", number(l.Stored), number(l.Pending), number(l.Leased), number(l.Resolved))
	}
	sum := func(l Letters) bool { return l.Stored == l.Pending+l.Leased+l.Resolved }
	return Claim{
		Name: "every dead letter is accounted for, and a replay heals it",
		Want: "stored = pending + leased + resolved before and after; then all resolved, and each replayed task a success",
		Measured: fmt.Sprintf("%s, after the replay %s; %s of %s replayed ended in success%s", line(n.Before), line(n.After),
			number(n.Replayed-n.Unhealed), count(n.Replayed, "task"), some(n.After.Stored-n.After.Ours, "; %s of somebody else's left alone", "letter")),
		Pass: sum(n.Before) && sum(n.After) && n.Before.Leased == 0 && n.After.OursOpen == 0 && n.Unhealed == 0 &&
			n.After.Stored >= n.Before.Stored && n.Replayed >= n.Failed,
	}
}

func bothStories(n Numbers) Claim {
	return Claim{
		Name: "the story took place",
		Want: "breakers opened, half-opened and closed; quotes answered by the fallback; charges that became dead letters",
		Measured: fmt.Sprintf("breakers opened %s, half-opened %s, closed %s; %s, %s", count(n.Opened, "time"), number(n.HalfOpened), number(n.Closed),
			count(n.Fallback, "fallback answer"), count(n.Before.Ours, "dead letter")),
		Pass: n.Opened > 0 && n.HalfOpened > 0 && n.Closed > 0 && n.Fallback > 0 && n.Before.Ours > 0,
	}
}

// some is a clause about a count of things, when there are any.
func some(n int, format, thing string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(format, count(n, thing))
}
