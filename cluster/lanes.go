package cluster

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/forseti-go/forseti/messages"
)

// lane is one line in which tasks of a type wait: a priority, or a partition of the ordered ones. It has a subject and a
// durable consumer of its own, because consumers filter subjects and nothing else.
type lane int

const (
	highLane lane = iota
	normalLane
	lowLane
	firstPartition // the partitions follow
	laneEnd        = firstPartition + messages.Partitions
)

// laneOf is the lane of a task.
func laneOf(t *messages.Task) lane {
	switch {
	case t.Key != "":
		return firstPartition + lane(messages.Partition(t.Key))
	case t.Priority == messages.HighPriority:
		return highLane
	case t.Priority == messages.LowPriority:
		return lowLane
	}
	return normalLane
}

// lanesOf are the lanes that a node takes tasks from.
func lanesOf(cfg ConsumeConfig) []lane {
	end := firstPartition
	if cfg.Ordered {
		end = laneEnd
	}
	lanes := make([]lane, 0, end)
	for l := range end {
		lanes = append(lanes, l)
	}
	return lanes
}

func (l lane) ordered() bool { return l >= firstPartition }

func (l lane) priority() messages.Priority {
	switch l {
	case highLane:
		return messages.HighPriority
	case lowLane:
		return messages.LowPriority
	}
	return messages.NormalPriority
}

// tokens is what follows the type in a subject.
func (l lane) tokens() string {
	switch {
	case l == normalLane:
		return ""
	case l == highLane:
		return ".hi"
	case l == lowLane:
		return ".lo"
	}
	return ".k." + strconv.Itoa(int(l-firstPartition))
}

// suffix is what follows the type in the name of a consumer. Types have no upper case, so no two names are the same.
func (l lane) suffix() string {
	switch {
	case l == normalLane:
		return ""
	case l == highLane:
		return "-HI"
	case l == lowLane:
		return "-LO"
	}
	return fmt.Sprintf("-K%02d", l-firstPartition)
}

// typeOfConsumer is the task type of a durable consumer of one of our lanes.
func typeOfConsumer(name string) (typ string, ok bool) {
	typ, ok = strings.CutPrefix(name, consumerName("", normalLane))
	if i := strings.LastIndexByte(typ, '-'); i >= 0 && typ[i:] != strings.ToLower(typ[i:]) {
		typ = typ[:i]
	}
	return typ, ok && messages.ValidToken(typ)
}

// taskSubjects are the subjects of the task stream. The partitions are listed one by one, so that a producer who
// computes one that does not exist is told at once that no stream takes it.
func taskSubjects(prefix string) []string {
	var subjects []string
	for _, l := range lanesOf(ConsumeConfig{Ordered: true}) {
		subjects = append(subjects, prefix+".task.*"+l.tokens())
	}
	return subjects
}

// taskSubject splits the subject of a task into its type and lane.
func (n names) taskSubject(subject string) (typ string, l lane, ok bool) {
	rest, ok := strings.CutPrefix(subject, n.prefix+".task.")
	if !ok {
		return "", 0, false
	}
	typ, tokens, more := strings.Cut(rest, ".")
	switch {
	case !more:
		return typ, normalLane, true
	case tokens == "hi":
		return typ, highLane, true
	case tokens == "lo":
		return typ, lowLane, true
	}
	number, ok := strings.CutPrefix(tokens, "k.")
	i, err := strconv.Atoi(number)
	if l = firstPartition + lane(i); !ok || err != nil || i < 0 || i >= messages.Partitions || l.tokens() != "."+tokens {
		return typ, 0, false
	}
	return typ, l, true
}
