package messages

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Headers of CloudEvents 1.0 in binary mode, https://github.com/cloudevents/spec/blob/main/cloudevents/spec.md. The
// attributes that begin with forseti are extensions; their values are strings, because an Integer of CloudEvents has 32
// bits.
const (
	ceSpecVersion = "ce-specversion"
	ceID          = "ce-id"
	ceType        = "ce-type"
	ceSource      = "ce-source"
	ceSubject     = "ce-subject"
	ceTime        = "ce-time"
	ceSchema      = "ce-dataschema"
	ceContentType = "ce-datacontenttype"

	ceNode        = "ce-forsetinode"
	cePipeline    = "ce-forsetipipeline"
	ceOrigin      = "ce-forsetisource"
	ceReason      = "ce-forsetireason"
	ceSequence    = "ce-forsetisequence"
	ceIncarnation = "ce-forsetiincarnation"

	ceTypePrefix    = "io.forseti."
	cloudEventsJSON = "application/cloudevents"
	jsonType        = "application/json"
	schemaBase      = "https://github.com/forseti-go/forseti/blob/main/messages/EVENTS.md#"
)

// MaxEventSize bounds the data of an event that is written, and the body of one that is read.
const MaxEventSize = 64 << 10

// EncodeEvent writes an event as a CloudEvent in binary mode: its data is the body, the rest is in the headers. The
// installation, a subject prefix say, and the node make its source. A reason is cut at 1 KiB. The error is a *FieldError.
func EncodeEvent(e *Event, installation string) (Header, []byte, error) {
	var body []byte
	if e.Data != nil {
		var err error
		if body, err = json.Marshal(e.Data); err != nil {
			return nil, nil, &FieldError{Field: "data", Value: err.Error(), Allowed: "values that JSON can hold"}
		}
	}
	if len(body) > MaxEventSize {
		return nil, nil, &FieldError{Field: "data", Value: len(body), Allowed: fmt.Sprintf("at most %d bytes of JSON", MaxEventSize)}
	}
	version := e.Version
	if version == 0 {
		version = VersionOf(e.Kind)
	}
	h := Header{}
	set := func(name, value string, limit int) { h.Set(name, escapeAttribute(clip(value, limit))) }
	set(ceSpecVersion, "1.0", 8)
	set(ceID, e.ID, MaxIDLen)
	set(ceType, fmt.Sprintf("%s%s.v%d", ceTypePrefix, e.Kind, version), MaxIDLen)
	set(ceSource, "/forseti/"+url.PathEscape(installation)+"/"+url.PathEscape(e.Node), 4*MaxIDLen)
	set(ceSubject, e.Pipeline, MaxIDLen)
	h.Set(ceTime, stamp(e.At))
	if len(body) > 0 {
		h.Set(ceContentType, jsonType)
		h.Set(HeaderContentType, jsonType)
		set(ceSchema, schemaBase+fmt.Sprintf("%s.v%d", e.Kind, version), 2*MaxIDLen)
	}
	set(ceNode, e.Node, MaxIDLen)
	set(cePipeline, e.Pipeline, MaxIDLen)
	set(ceOrigin, e.Source, MaxIDLen)
	set(ceReason, e.Reason, MaxErrorLen)
	h.Set(ceSequence, count(e.Sequence))
	set(ceIncarnation, e.Incarnation, MaxIDLen)
	return h, body, nil
}

// DecodeEvent reads what [EncodeEvent] wrote; a CloudEvent of anybody else, in binary or structured mode; and an event
// that is all in the body, as they once were. Of a foreign one the kind is its whole type. The error is one *FieldError,
// or several of them, joined.
func DecodeEvent(h Header, body []byte) (Event, error) {
	if len(body) > MaxEventSize+MaxHeaderSize {
		return Event{}, &FieldError{Field: "body", Value: len(body), Allowed: fmt.Sprintf("at most %d bytes", MaxEventSize+MaxHeaderSize)}
	}
	if h.Size() > MaxHeaderSize {
		return Event{}, &FieldError{Field: "headers", Value: h.Size(), Allowed: fmt.Sprintf("at most %d bytes", MaxHeaderSize)}
	}
	if strings.HasPrefix(strings.ToLower(h.Get(HeaderContentType)), cloudEventsJSON) {
		return structured(body)
	}
	if h.Get(ceSpecVersion) == "" || h.Get(ceNode) == "" && enveloped(h, body) {
		var e Event
		if err := json.Unmarshal(body, &e); err != nil {
			return Event{}, &FieldError{Field: "body", Value: err.Error(), Allowed: "an event in JSON"}
		}
		return e, valid(&e)
	}
	a := attributes{}
	for name, values := range h {
		if name = strings.ToLower(name); strings.HasPrefix(name, "ce-") && len(values) > 0 {
			a[name] = unescapeAttribute(values[0])
		}
	}
	media := a[ceContentType]
	if media == "" {
		media = h.Get(HeaderContentType)
	}
	return a.event(media, body)
}

// enveloped reports whether the body is an event as a whole: so it was when there was no ce-forseti header.
func enveloped(h Header, body []byte) bool {
	var e struct {
		ID   string `json:"id"`
		Kind Kind   `json:"kind"`
	}
	return strings.HasPrefix(h.Get(ceType), ceTypePrefix) && json.Unmarshal(body, &e) == nil && e.Kind != "" && e.ID == h.Get(ceID)
}

// structured reads a CloudEvent in the JSON format: the attributes are members beside data.
func structured(body []byte) (Event, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return Event{}, &FieldError{Field: "body", Value: err.Error(), Allowed: "a CloudEvent in JSON"}
	}
	a := attributes{}
	for name, raw := range members {
		var text string
		if name != "data" && json.Unmarshal(raw, &text) == nil {
			a["ce-"+name] = text
		}
	}
	if raw, ok := members["data_base64"]; ok { // bytes of the content type; a JSON value is in data, whatever that says
		var data []byte
		if err := json.Unmarshal(raw, &data); err != nil {
			return Event{}, &FieldError{Field: "data_base64", Value: err.Error(), Allowed: "a string in base64"}
		}
		return a.event(a[ceContentType], data)
	}
	return a.event(jsonType, members["data"])
}

// attributes are those of a CloudEvent, by the names that they have as headers.
type attributes map[string]string

// event makes an event of attributes and data.
func (a attributes) event(media string, data []byte) (Event, error) {
	e := Event{
		ID: a[ceID], Node: a[ceNode], Incarnation: a[ceIncarnation], Source: a[ceOrigin], Reason: a[ceReason],
		Pipeline: a[cePipeline],
	}
	var errs []error
	bad := func(field, allowed string) {
		errs = append(errs, &FieldError{Field: field, Value: clip(a[field], MaxIDLen), Allowed: allowed})
	}
	if v := a[ceSpecVersion]; v != "1.0" {
		bad(ceSpecVersion, "1.0")
	}
	if a[ceSource] == "" {
		bad(ceSource, "a URI reference")
	}
	e.Kind, e.Version = kindOfType(a[ceType])
	if e.Pipeline == "" {
		e.Pipeline = a[ceSubject]
	}
	if at := a[ceTime]; at != "" {
		var err error
		if e.At, err = time.Parse(time.RFC3339Nano, at); err != nil {
			bad(ceTime, "an instant as in RFC 3339")
		}
	}
	if n := a[ceSequence]; n != "" {
		var err error
		if e.Sequence, err = strconv.ParseUint(n, 10, 64); err != nil {
			bad(ceSequence, "a whole number")
		}
	}
	if err := valid(&e); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return Event{}, errors.Join(errs...)
	}
	e.typeData(dataAsJSON(media, data))
	return e, nil
}

// dataAsJSON is the data of an event, as JSON: what is not JSON becomes a string.
func dataAsJSON(media string, data []byte) json.RawMessage {
	if len(data) == 0 {
		return nil
	}
	kind, _, _ := mime.ParseMediaType(media)
	if (media == "" || kind == jsonType || kind == "text/json" || strings.HasSuffix(kind, "+json")) && json.Valid(data) {
		return data
	}
	text, err := json.Marshal(strings.ToValidUTF8(string(data), "\uFFFD"))
	if err != nil {
		return nil
	}
	return text
}

// kindOfType takes a type of ours apart, "io.forseti.breaker.opened.v1"; another one is a kind as it is.
func kindOfType(typ string) (Kind, int) {
	name, ours := strings.CutPrefix(typ, ceTypePrefix)
	if i := strings.LastIndex(name, ".v"); ours && i > 0 {
		if v, err := strconv.ParseUint(name[i+2:], 10, 31); err == nil && v > 0 {
			return Kind(name[:i]), int(v)
		}
	}
	return Kind(typ), 0
}

// valid bounds what a decoded event says of itself.
func valid(e *Event) error {
	var errs []error
	for _, f := range []struct {
		field, value string
		limit        int
		required     bool
	}{
		{"id", e.ID, MaxIDLen, true},
		{"kind", string(e.Kind), MaxIDLen, true},
		{"node", e.Node, MaxIDLen, false},
		{"pipeline", e.Pipeline, MaxIDLen, false},
		{"source", e.Source, MaxIDLen, false},
		{"incarnation", e.Incarnation, MaxIDLen, false},
		{"reason", e.Reason, MaxHeaderSize, false},
	} {
		if len(f.value) > f.limit || f.required && f.value == "" {
			allowed := fmt.Sprintf("at most %d bytes", f.limit)
			if f.required {
				allowed = fmt.Sprintf("1 to %d bytes", f.limit)
			}
			errs = append(errs, &FieldError{Field: f.field, Value: len(f.value), Allowed: allowed})
		}
	}
	return errors.Join(errs...)
}

// clip makes a value valid UTF-8, and cuts it to limit bytes between two characters.
func clip(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// escapeAttribute writes a value as the bindings of CloudEvents ask for in a header: what is not a printable character of
// ASCII, and space, quote and percent sign, are percent-encoded.
// https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/http-protocol-binding.md#3132-http-header-values
func escapeAttribute(s string) string {
	plain := func(c byte) bool { return c > ' ' && c < 0x7f && c != '"' && c != '%' }
	n := 0
	for i := range len(s) {
		if !plain(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(s) + 2*n)
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// unescapeAttribute is the reverse. A percent sign that begins no escape stands for itself; what is not UTF-8 then is
// replaced.
func unescapeAttribute(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return strings.ToValidUTF8(b.String(), "\uFFFD")
}
