package messages

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEventsTravelAsCloudEvents(t *testing.T) {
	for _, k := range EventKinds() {
		e := sampleEvent(k)
		h, body, err := EncodeEvent(&e, "forseti.v1")
		require.NoError(t, err)
		got, err := DecodeEvent(h, body)
		require.NoError(t, err)
		require.Equal(t, e, got)
	}
	h, body, err := EncodeEvent(&Event{
		ID: "e1", Kind: RetrySuppressed, At: time.Date(2026, 5, 4, 3, 2, 1, 5, time.FixedZone("", 3600)), Node: "n1", Sequence: 1 << 63, Incarnation: "i",
		Pipeline: "pay", Source: "retry", Reason: "100 % \"zu spät\"\n", Data: RetriesSuppressed{Count: 3},
	}, "acme.v1")
	require.NoError(t, err)
	require.Equal(t, Header{
		"ce-specversion": {"1.0"}, "ce-id": {"e1"}, "ce-type": {"io.forseti.retry.suppressed.v1"}, "ce-source": {"/forseti/acme.v1/n1"},
		"ce-subject": {"pay"}, "ce-time": {"2026-05-04T02:02:01.000000005Z"}, "ce-datacontenttype": {"application/json"}, "content-type": {"application/json"},
		"ce-dataschema":  {"https://github.com/forseti-go/forseti/blob/main/messages/EVENTS.md#retry.suppressed.v1"},
		"ce-forsetinode": {"n1"}, "ce-forsetisequence": {"9223372036854775808"}, "ce-forsetiincarnation": {"i"}, "ce-forsetipipeline": {"pay"},
		"ce-forsetisource": {"retry"}, "ce-forsetireason": {"100%20%25%20%22zu%20sp%C3%A4t%22%0A"},
	}, h)
	require.JSONEq(t, `{"count":3}`, string(body))
	e, err := DecodeEvent(h, body)
	require.NoError(t, err)
	require.Equal(t, "100 % \"zu spät\"\n", e.Reason)
}

func TestCloudEventsOfOthersAreRead(t *testing.T) {
	foreign := Header{"Ce-Specversion": {"1.0"}, "CE-ID": {"1"}, "ce-type": {"com.example.order"}, "ce-source": {"/x"}, "ce-subject": {"s"}}
	for _, row := range []struct {
		name string
		h    Header
		body string
		want Event
	}{
		{"binary", foreign, `{"a":1}`, Event{ID: "1", Kind: "com.example.order", Pipeline: "s", Data: json.RawMessage(`{"a":1}`)}},
		{"not JSON", merge(foreign, "ce-datacontenttype", "text/plain"), "hello", Event{ID: "1", Kind: "com.example.order", Pipeline: "s", Data: json.RawMessage(`"hello"`)}},
		{
			"structured",
			Header{"Content-Type": {"application/cloudevents+json; charset=utf-8"}},
			`{"specversion":"1.0","id":"1","type":"io.forseti.breaker.opened.v1","source":"/forseti/x/n1","forsetinode":"n1","data":{"bad":2},"other":7}`,
			Event{ID: "1", Kind: BreakerOpened, Node: "n1", Version: 1, Data: BreakerChange{Bad: 2}},
		},
		{
			"all in the body, with headers",
			Header{"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-type": {"io.forseti.breaker.opened.v1"}, "ce-source": {"/forseti/n1"}},
			`{"id":"1","kind":"breaker.opened","node":"n1","data":{"bad":2}}`,
			Event{ID: "1", Kind: BreakerOpened, Node: "n1", Data: BreakerChange{Bad: 2}},
		},
		{"all in the body", nil, `{"id":"1","kind":"node.started"}`, Event{ID: "1", Kind: NodeStarted}},
	} {
		got, err := DecodeEvent(row.h, []byte(row.body))
		require.NoError(t, err, row.name)
		require.Equal(t, row.want, got, row.name)
	}
}

func merge(h Header, name, value string) Header {
	h = maps.Clone(h)
	h.Set(name, value)
	return h
}

func TestMalformedEventsAreRefused(t *testing.T) {
	good, body, err := EncodeEvent(&Event{ID: "1", Kind: NodeStarted, Node: "n"}, "p")
	require.NoError(t, err)
	for name, h := range map[string]Header{
		"no id": merge(good, ceID, ""), "another specversion": merge(good, ceSpecVersion, "0.3"), "no type": merge(good, ceType, ""), "no source": merge(good, ceSource, ""),
		"a time": merge(good, ceTime, "noon"), "a sequence": merge(good, ceSequence, "-1"), "a long id": merge(good, ceID, strings.Repeat("x", MaxIDLen+1)),
		"long headers": merge(good, "x", strings.Repeat("x", MaxHeaderSize)), "an empty body": nil,
		"structured": {"content-type": {"application/cloudevents+json"}},
	} {
		_, err := DecodeEvent(h, body)
		require.ErrorIs(t, err, ErrInvalid, name)
	}
	_, err = DecodeEvent(good, make([]byte, MaxEventSize+MaxHeaderSize+1))
	require.ErrorIs(t, err, ErrInvalid)
	for _, data := range []any{func() {}, strings.Repeat("x", MaxEventSize)} {
		_, _, err = EncodeEvent(&Event{ID: "1", Kind: NodeStarted, Data: data}, "p")
		require.ErrorIs(t, err, ErrInvalid)
	}
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add("1.0", "1", "io.forseti.breaker.opened.v1", "2026-05-04T03:02:01Z", "why%20%C3%A4%", "n1", "application/json", []byte(`{"bad":1}`))
	f.Add("", "", "", "", "", "", "", []byte(`{"id":"1","kind":"node.started","data":{}}`))
	f.Add("1.0", "1", "io.forseti..v1", "", "%zz", "", "application/cloudevents+json", []byte(`{"specversion":"1.0","id":"1","type":"x","source":"/"}`))
	f.Fuzz(func(t *testing.T, spec, id, typ, at, reason, node, media string, body []byte) {
		h := Header{}
		for name, v := range map[string]string{
			ceSpecVersion: spec, ceID: id, ceType: typ, ceSource: "/x", ceTime: at, ceReason: reason, ceNode: node, HeaderContentType: media,
		} {
			h.Set(name, v)
		}
		e, err := DecodeEvent(h, body)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			return
		}
		require.NotEmpty(t, e.ID)
		again, data, err := EncodeEvent(&e, "p")
		if err != nil { // what was just small enough as text
			require.ErrorIs(t, err, ErrInvalid)
			return
		}
		for _, v := range again {
			for i := range len(v[0]) {
				require.True(t, v[0][i] > ' ' && v[0][i] < 0x7f, "%q", v[0])
			}
		}
		_ = data
		_ = e.Fields()
	})
}

// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md#31-handling-of-data
func TestStructuredDataThatIsNoObjectWasLostOrQuotedTwice(t *testing.T) {
	for _, row := range []struct{ members, data string }{
		{`"datacontenttype":"text/plain","data":"hello"`, `"hello"`},
		{`"datacontenttype":"text/plain","data_base64":"aGVsbG8="`, `"hello"`},
		{`"datacontenttype":"application/json","data_base64":"eyJhIjoxfQ=="`, `{"a":1}`},
		{`"data":{"a":1}`, `{"a":1}`},
	} {
		e, err := DecodeEvent(Header{"content-type": {"application/cloudevents+json"}}, []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t",`+row.members+`}`))
		require.NoError(t, err)
		require.Equal(t, json.RawMessage(row.data), e.Data, row.members)
	}
	_, err := DecodeEvent(Header{"content-type": {"application/cloudevents+json"}}, []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":7}`))
	require.ErrorIs(t, err, ErrInvalid)
}
