package runtime

import "github.com/forseti-go/forseti/messages"

// SeeCancellation hands an order to the runtime as the cluster's watch does.
func SeeCancellation(rt *Runtime, o messages.Cancellation) { rt.canceled.order(o) }

// DecodeKillFile reads the text of a kill.json.
func DecodeKillFile(text []byte) ([]messages.KillState, error) { return decodeKillFile(text) }
