package admin

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// The alphabets of names. A model and an operator stand in certificates and have
// ca/profile's alphabet, which a test compares; a lot stands nowhere else.
var (
	modelName    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,22}$`)
	lotName      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	operatorName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,31}$`)
)

// Bounds of what a model and a lot may ask for.
const (
	minLDevIDLife = time.Minute
	maxLDevIDLife = 398 * 24 * time.Hour
	minGrace      = time.Minute
	maxGrace      = 100 * 365 * 24 * time.Hour
	maxQuota      = 1_000_000_000
)

func (s *Service) models(ctx context.Context, _ *gate.Call) (any, error) {
	all, err := s.Store.Models(ctx)
	return view.List(all, "", showModel), err
}

func (s *Service) model(ctx context.Context, c *gate.Call) (any, error) {
	m, err := s.findModel(ctx, c.Request.PathValue("name"))
	return showModel(m), err
}

func (s *Service) findModel(ctx context.Context, name string) (record.Model, error) {
	m, err := s.Store.Model(ctx, name)
	return m, noModel(err, name)
}

func noModel(err error, name string) error {
	return gate.Absent(err, "hallmark model list shows those there are", "there is no model %q", name)
}

func (s *Service) createModel(ctx context.Context, c *gate.Call) (any, error) {
	var in wire.NewModel
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	m := record.Model{Name: in.Name, Assurance: cmp.Or(in.Assurance, record.LevelCertified), Created: c.Now}
	switch {
	case !modelName.MatchString(m.Name):
		return nil, gate.Invalid("", "model %q: 1 to 23 of a-z, 0-9 and -, not beginning with -", m.Name)
	case !(record.Assurance{Certified: true, Registered: true, Hardware: true}).Meets(m.Assurance):
		return nil, gate.Invalid("", "assurance %q: one of certified, registered, first-use, software", m.Assurance)
	}
	if err := setRules(&m, in.ModelRules); err != nil {
		return nil, err
	}
	e := c.Event("model.created", m.Name)
	e.Detail["assurance"], e.Detail["subject"] = m.Assurance, cmp.Or(m.Subject, "MODEL:SERIAL")
	err := s.Store.CreateModel(ctx, m, e)
	if errors.Is(err, record.ErrExists) {
		have, err := s.Store.Model(ctx, m.Name)
		if err == nil && (have.Assurance != m.Assurance || have.LDevIDLifetime != m.LDevIDLifetime || have.Poll != m.Poll || have.Grace != m.Grace || have.Subject != m.Subject || have.ServeNames != m.ServeNames) {
			err = gate.Refuse(http.StatusConflict, wire.CodeConflict, "choose another name: devices were made by the rules it has",
				"there is a model %q with other rules", m.Name)
		}
		return showModel(have), err
	}
	return showModel(m), taken(err)
}

// taken words the conflicts that a model's rules can have with another's.
func taken(err error) error {
	if !errors.Is(err, record.ErrConflict) {
		return err
	}
	return gate.Refuse(http.StatusConflict, wire.CodeConflict, "choose names that begin or end differently: hallmark model list --json shows the others", "%v", err)
}

// setRules changes the rules of a model that may change while it has devices.
func setRules(m *record.Model, in wire.ModelRules) error {
	if in.LDevIDLifetime != nil {
		if *in.LDevIDLifetime != 0 && !gate.Within(*in.LDevIDLifetime, minLDevIDLife, maxLDevIDLife) {
			return gate.Invalid("", "the life of working certificates is 1 minute to 398 days")
		}
		m.LDevIDLifetime = time.Duration(*in.LDevIDLifetime) * time.Second
	}
	if in.Poll != nil {
		if *in.Poll != 0 && *in.Poll != -1 && (*in.Poll < wire.MinPoll || *in.Poll > wire.MaxPoll) {
			return gate.Invalid("write 6h, 1d or never", "devices ask when to renew at most once a minute and at least every 30 days, or never")
		}
		m.Poll = time.Duration(*in.Poll) * time.Second
	}
	if in.Grace != nil {
		if *in.Grace != 0 && !gate.Within(*in.Grace, minGrace, maxGrace) {
			return gate.Invalid("write 30d, or forever", "devices come back for 1 minute to 100 years after their last working certificate ended, or for ever")
		}
		m.Grace = time.Duration(*in.Grace) * time.Second
	}
	if in.ServeNames != nil {
		if err := record.CheckServeNames(*in.ServeNames); *in.ServeNames != "" && err != nil {
			return gate.Invalid("write it like {serial}.local or {serial}.lamps.example.com", "%v", err)
		}
		m.ServeNames = *in.ServeNames
	}
	switch {
	case in.Subject == "" || in.Subject == m.Subject:
		return nil
	case m.Subject != "":
		return gate.Refuse(http.StatusConflict, wire.CodeConflict, "make another model: certificates with these names are in use",
			"the subject of model %s is %q for good", m.Name, m.Subject)
	}
	if err := record.CheckSubject(in.Subject); err != nil {
		return gate.Invalid("write it like {serial} or acme-{serial}", "%v", err)
	}
	m.Subject = in.Subject
	return nil
}

// setModel changes what a model asks of its devices from now on.
func (s *Service) setModel(ctx context.Context, c *gate.Call) (any, error) {
	var in wire.ModelRules
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	name := c.Request.PathValue("name")
	var changed record.Model
	err := s.Store.SetModel(ctx, name, func(m *record.Model) (record.Event, error) {
		if err := setRules(m, in); err != nil {
			return record.Event{}, err
		}
		e := c.Event("model.changed", name)
		e.Detail["ldevid_lifetime"], e.Detail["poll"], e.Detail["grace"] = m.LDevIDLifetime.String(), m.Poll.String(), m.Grace.String()
		e.Detail["serve_names"] = m.ServeNames
		changed = *m
		return e, nil
	})
	return showModel(changed), taken(noModel(err, name))
}

func (s *Service) lots(ctx context.Context, _ *gate.Call) (any, error) {
	all, err := s.Store.Lots(ctx)
	return view.List(all, "", showLot), err
}

func (s *Service) lot(ctx context.Context, c *gate.Call) (any, error) {
	l, err := s.findLot(ctx, c.Request.PathValue("name"))
	return showLot(l), err
}

func (s *Service) findLot(ctx context.Context, name string) (record.Lot, error) {
	l, err := s.Store.Lot(ctx, name)
	return l, gate.Absent(err, "hallmark lot list shows those there are", "there is no lot %q", name)
}

func (s *Service) createLot(ctx context.Context, c *gate.Call) (any, error) {
	var in wire.NewLot
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	l := record.Lot{Name: in.Name, Model: cmp.Or(in.Model, record.DefaultModel), Quota: in.Quota,
		Created: c.Now, Listed: len(in.EKNames) > 0}
	names, err := lotList(in.EKNames)
	switch {
	case err != nil:
		return nil, err
	case !lotName.MatchString(l.Name):
		return nil, gate.Invalid("", "lot %q: 1 to 63 of A-Z, a-z, 0-9 and . _ -, beginning with a letter or digit", l.Name)
	case l.Quota < 1 || l.Quota > maxQuota:
		return nil, gate.Invalid("", "a lot needs a quota of 1 to %d devices", maxQuota)
	}
	if _, err := s.findModel(ctx, l.Model); err != nil {
		return nil, err
	}
	e := c.Event("lot.created", l.Name)
	e.Detail["model"], e.Detail["quota"] = l.Model, strconv.FormatInt(l.Quota, 10)
	if l.Listed {
		e.Detail["listed"] = strconv.Itoa(len(names))
	}
	err = s.Store.CreateLot(ctx, l, names, e)
	if errors.Is(err, record.ErrExists) {
		have, err := s.Store.Lot(ctx, l.Name)
		if err == nil && (have.Model != l.Model || have.Quota != l.Quota || have.Listed || l.Listed || !have.Closed.IsZero()) {
			err = gate.Refuse(http.StatusConflict, wire.CodeConflict, "choose another name; hallmark lot show "+l.Name+" shows the one there is",
				"there is a lot %q already, and its model, quota or list is another, or it is closed", l.Name)
		}
		return showLot(have), err
	}
	return showLot(l), err
}

// lotList decodes a list of EK Names, each of which may stand in it once.
func lotList(texts []string) ([][]byte, error) {
	if len(texts) > wire.MaxListed {
		return nil, gate.Invalid("make several lots", "the list has %d EK Names; at most %d are allowed", len(texts), wire.MaxListed)
	}
	seen := make(map[string]bool, len(texts))
	names := make([][]byte, len(texts))
	for i, text := range texts {
		name, err := ekName(text)
		if err != nil {
			return nil, gate.Invalid("", "entry %d of the list: %v", i+1, err)
		}
		if seen[string(name)] {
			return nil, gate.Invalid("", "entry %d of the list stands in it twice: %s", i+1, text)
		}
		seen[string(name)], names[i] = true, name
	}
	return names, nil
}

// ekName decodes a TPM Name: TPM_ALG_SHA256, 384 or 512 and a digest of that length
// (TPM 2.0 Library, part 1, 16 "Names").
func ekName(text string) ([]byte, error) {
	name, err := hex.DecodeString(text)
	lengths := map[int]byte{2 + 32: 0x0b, 2 + 48: 0x0c, 2 + 64: 0x0d}
	if err != nil || lengths[len(name)] == 0 || name[0] != 0 || name[1] != lengths[len(name)] {
		return nil, fmt.Errorf("%.140q is no EK Name: that is the hex of its hash algorithm and digest, 000b… with 68 digits for SHA-256", text)
	}
	return name, nil
}

func (s *Service) closeLot(ctx context.Context, c *gate.Call) (any, error) {
	name := c.Request.PathValue("name")
	if err := c.Read(&struct{}{}); err != nil {
		return nil, err
	}
	if err := s.Store.CloseLot(ctx, name, c.Now, c.Event("lot.closed", name)); err != nil {
		return nil, gate.Absent(err, "hallmark lot list shows those there are", "there is no lot %q", name)
	}
	return s.lot(ctx, c)
}

func (s *Service) createTickets(ctx context.Context, c *gate.Call) (any, error) {
	var in wire.NewTickets
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	ttl := cmp.Or(time.Duration(in.TTL)*time.Second, wire.DefaultTicketTTL)
	number := in.Count + len(in.For)
	switch {
	case in.Count < 0 || in.Count > 0 && len(in.For) > 0 || number < 1 || number > wire.MaxTickets:
		return nil, gate.Invalid("", "ask for a count or for named devices, 1 to %d at a time", wire.MaxTickets)
	case in.TTL != 0 && !gate.Within(in.TTL, time.Second, wire.MaxTicketTTL):
		return nil, gate.Invalid("", "a ticket is valid for 1 second to 90 days")
	}
	lot := cmp.Or(in.Lot, record.DefaultLot)
	tickets := make([]record.Ticket, number)
	answer := wire.Tickets{Tickets: make([]string, number), Expires: c.Now.Add(ttl)}
	for i := range tickets {
		t := record.Ticket{ID: s.Permissions.NewID(), Lot: lot, Created: c.Now, Expires: answer.Expires}
		if len(in.For) > 0 {
			if err := s.bind(&t, in.For[i]); err != nil {
				return nil, gate.Invalid("", "device %d: %v", i+1, err)
			}
		}
		tickets[i] = t
		answer.Tickets[i] = s.permission(wire.KindTicket, t.ID, s.DeviceServer)
	}
	if err := s.mayEnrol(ctx, lot, tickets); err != nil {
		return nil, err
	}
	e := c.Event("ticket.created", lot)
	e.Detail["count"], e.Detail["expires"] = strconv.Itoa(number), answer.Expires.UTC().Format(time.RFC3339)
	if number == 1 {
		e.Detail["ticket"], e.Detail["serial"] = tickets[0].ID, tickets[0].Serial
	}
	err := s.Store.CreateTickets(ctx, tickets, e)
	if errors.Is(err, record.ErrConflict) {
		err = gate.Refuse(http.StatusConflict, wire.CodeLotClosed, "hallmark lot create makes another; name it: hallmark ticket create --lot LOT", "the lot %q is closed", lot)
	}
	return answer, gate.Absent(err, "hallmark lot list shows those there are", "there is no lot %q", lot)
}

// mayEnrol refuses tickets for devices that were revoked: the tombstone would keep each from
// enrolling, and only at the line would anybody notice. A lot that is not there is not its matter.
func (s *Service) mayEnrol(ctx context.Context, lot string, tickets []record.Ticket) error {
	l, err := s.Store.Lot(ctx, lot)
	if errors.Is(err, record.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	for _, t := range tickets {
		if t.Serial == "" {
			continue
		}
		found, err := s.Store.DevicesNamed(ctx, l.Model, t.Serial)
		if err != nil {
			return err
		}
		for _, d := range found {
			if d.State == record.StateRevoked {
				return gate.Refuse(http.StatusConflict, wire.CodeRevoked, "give a new board a serial number of its own; if this very device may come back, two operators lift that: hallmark device lift "+d.Name(), "%s was revoked, and could not enrol", d.Name())
			}
		}
	}
	return nil
}

// bind ties a ticket to a serial number, to a TPM or to both.
func (s *Service) bind(t *record.Ticket, f wire.TicketFor) (err error) {
	if t.Serial = f.Serial; f.Serial != "" {
		err = s.CheckSerial(f.Serial)
	}
	if f.EKName != "" && err == nil {
		t.EKName, err = ekName(f.EKName)
	}
	if f == (wire.TicketFor{}) {
		err = errors.New("neither a serial number nor an EK Name")
	}
	return err
}

func (s *Service) permission(kind, id, server string) string {
	return wire.Permission{Kind: kind, ID: id, Secret: s.Permissions.Secret(kind, id), Server: server, Root: s.Root}.String()
}
