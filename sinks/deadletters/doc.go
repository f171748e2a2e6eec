// Package deadletters finds dead letters: a small language of conditions, and an index that answers it in milliseconds.
//
//	pipeline = charge and reason = timeout and age < 2h
//	error ~ "connection refused" or error_type = *net.OpError
//	not (tenant in (acme, globex)) and attempts >= 3 and x.channel = web*
//
// A condition compares a field with a value, by = != < <= > >= or ~, which means "contains", without regard to case; "in" takes
// a list. In the values of = and != a * stands for any text. Values with spaces or signs in them stand in double quotes,
// as in Go. "not" binds closer than "and", which binds closer than "or"; parentheses group. Nothing at all chooses all letters.
//
// Texts are id, task, type, pipeline, reason, outcome, error, error_type, fingerprint, node, state, by, tenant, tier, region, domain,
// order_id, user_id, payment_id, target, key, and x.<name>, an attribute of the work. Numbers are attempts, replays and size, the
// body's bytes. Instants are failed_at and stored_at, in RFC 3339 or as 2006-01-02; age is how long ago the letter was stored: 90s, 2h, 3d.
//
// [Fingerprint] makes one token of all errors that differ only in numbers, ids, addresses and quoted text, so that ten
// thousand letters become the three faults that they are. An [Index] holds what is asked for of each letter, up to a bound,
// and not its body.
package deadletters
