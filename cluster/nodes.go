package cluster

import "time"

const lostNodeTTL = time.Minute
