package sqlite

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/chips"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/factory"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/grants"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/rows"
)

// Look gives the View of the last commit.
func (s *Store) Look(ctx context.Context, q record.Query) (v record.View, err error) {
	err = s.db.View(ctx, func(c *engine.Conn) error {
		v, err = look(c, q)
		return err
	})
	return v, err
}

// Holder goes from the certificate to the device in one statement.
func (s *Store) Holder(ctx context.Context, issuer, serial string) (record.Device, error) {
	return engine.Get(ctx, s.db, "device with certificate "+serial, func(c *engine.Conn) (*record.Device, error) {
		return rows.Device(c, "seq = (SELECT device FROM certificates WHERE serial = ? AND issuer = ?)", serial, issuer)
	})
}

// Admit runs judge in the writer, so nothing changes between the View and the decision.
func (s *Store) Admit(ctx context.Context, q record.Query, judge record.Judge) (record.Device, error) {
	var admitted record.Device
	err := s.db.Write(ctx, func(c *engine.Conn) error {
		v, err := look(c, q)
		if err != nil {
			return err
		}
		a, err := judge(v)
		if err != nil {
			return err
		}
		admitted = a.Device
		return s.admit(c, q, v, a)
	})
	if err != nil {
		return record.Device{}, err
	}
	for _, t := range []*time.Time{&admitted.Enrolled, &admitted.Renewed, &admitted.Seen} {
		if !t.IsZero() {
			*t = time.UnixMicro(t.UnixMicro()).UTC() // as it will be read
		}
	}
	return admitted, nil
}

// Seen marks a certificate as used and its device as seen.
func (s *Store) Seen(ctx context.Context, issuer, serial string, at time.Time) error {
	return s.db.Write(ctx, func(c *engine.Conn) error {
		n, err := c.Exec("UPDATE certificates SET used = coalesce(used, ?) WHERE serial = ? AND issuer = ? AND device IS NOT NULL", at, serial, issuer)
		if err == nil && n == 0 {
			return fmt.Errorf("certificate %s: %w", serial, record.ErrNotFound)
		}
		if err != nil {
			return err
		}
		_, err = c.Exec("UPDATE devices SET seen = max(seen, ?) WHERE seq = (SELECT device FROM certificates WHERE serial = ? AND issuer = ?)", at, serial, issuer)
		return err
	})
}

// look collects the View: what the query names, then what that leads to.
func look(c *engine.Conn, q record.Query) (v record.View, err error) {
	if q.Session != "" {
		n, err := engine.First(c, engine.Number, "SELECT 1 FROM sessions WHERE id = ?", q.Session)
		if err != nil {
			return v, err
		}
		v.SessionRedeemed = n != nil
	}
	if q.Ticket != "" {
		if v.Ticket, err = factory.Ticket(c, q.Ticket); err != nil {
			return v, err
		}
		if v.Ticket != nil && q.Serial == "" {
			q.Serial = v.Ticket.Serial
		}
		if v.Ticket == nil {
			if v.Grant, err = grants.Named(c, q.Ticket); err != nil {
				return v, err
			}
			if v.Grant != nil {
				q.Device = v.Grant.Device
			}
		}
	}
	if err = lookDevices(c, q, &v); err != nil {
		return v, err
	}
	if err = lookCertificates(c, q, &v); err != nil {
		return v, err
	}
	if q.Chip != nil {
		if v.EKTypes, err = chips.Types(c, *q.Chip); err != nil {
			return v, err
		}
	}
	if err = lookLot(c, q, &v); err != nil {
		return v, err
	}
	return v, lookTombstones(c, q, &v)
}

func lookDevices(c *engine.Conn, q record.Query, v *record.View) (err error) {
	if q.Device != "" {
		if v.ByID, err = rows.Device(c, "id = ?", q.Device); err != nil {
			return err
		}
	}
	if q.EK != [32]byte{} {
		if v.ByEK, err = rows.Device(c, "seq = (SELECT device FROM eks WHERE fingerprint = ?)", q.EK[:]); err != nil {
			return err
		}
	}
	if len(q.AK) != 0 {
		if v.ByAK, err = rows.Device(c, "ak_name = ?", q.AK); err != nil {
			return err
		}
	}
	if q.Key != [32]byte{} {
		v.ByKey, err = rows.Device(c, "idevid_key = ? ORDER BY d.hardware", q.Key[:])
	}
	return err
}

func lookCertificates(c *engine.Conn, q record.Query, v *record.View) (err error) {
	if q.CertificateSerial != "" {
		if v.Presented, err = rows.Certificate(c, q.Issuer, q.CertificateSerial); err != nil || v.Presented == nil || v.Presented.Device == "" {
			return err
		}
		if v.ByID, err = rows.Device(c, "id = ?", v.Presented.Device); err != nil {
			return err
		}
	}
	d := otherwiseFound(v)
	if d == nil {
		return nil
	}
	if v.Grant == nil {
		if v.Grant, err = grants.Newest(c, d.ID); err != nil {
			return err
		}
	}
	if v.Grant != nil { // most devices never have one
		if v.Lost, err = grants.OfLost(c, d.ID); err != nil {
			return err
		}
	}
	v.Newest, err = engine.First(c, rows.ScanCertificate, rows.SelectCertificate+
		" WHERE c.device = (SELECT seq FROM devices WHERE id = ?) AND c.profile = ? AND c.issued IS NOT NULL ORDER BY c.seq DESC LIMIT 1",
		d.ID, record.ProfileLDevID)
	return err
}

// otherwiseFound is the device that was found by another key than its serial number.
func otherwiseFound(v *record.View) *record.Device { return cmp.Or(v.ByID, v.ByEK, v.ByAK, v.ByKey) }

// lookLot finds the lot and its model, and in that model the serial number.
func lookLot(c *engine.Conn, q record.Query, v *record.View) (err error) {
	name := ""
	if v.Ticket != nil {
		name = v.Ticket.Lot
	} else if d := otherwiseFound(v); d != nil {
		name = d.Lot
	} else {
		return nil
	}
	type both struct {
		lot   record.Lot
		model record.Model
	}
	found, err := engine.First(c, func(r engine.Row) both { return both{factory.ScanLot(r), factory.ScanModel(r.From(7))} },
		`SELECT l.name, l.model, l.quota, l.used, l.created, l.closed, l.listed, `+factory.ModelColumns+`
			FROM lots l JOIN models ON models.name = l.model WHERE l.name = ?`, name)
	if err != nil || found == nil {
		return err
	}
	v.Lot, v.Model = &found.lot, &found.model
	if v.Lot.Listed && len(q.EKName) != 0 {
		n, err := engine.First(c, engine.Number, "SELECT 1 FROM lot_list WHERE lot = ? AND ek_name = ?", name, q.EKName)
		if err != nil {
			return err
		}
		v.OnList = n != nil
	}
	if q.Serial != "" {
		v.BySerial, err = rows.Device(c, "serial_folded = ? AND model = ?", record.Fold(q.Serial), v.Lot.Model)
	}
	return err
}

func lookTombstones(c *engine.Conn, q record.Query, v *record.View) (err error) {
	var ek, ak, serial any
	if q.EK != [32]byte{} {
		ek = hex.EncodeToString(q.EK[:])
	}
	if len(q.AK) != 0 {
		ak = hex.EncodeToString(q.AK)
	}
	if v.Model != nil && q.Serial != "" {
		serial = v.Model.Name + ":" + record.Fold(q.Serial)
	}
	if ek == nil && ak == nil && serial == nil {
		return nil
	}
	v.Tombstones, err = engine.Query(context.Background(), c, func(r engine.Row) record.Tombstone {
		return record.Tombstone{Kind: r.Text(0), Value: r.Text(1), Device: r.Text(2), Since: r.Time(3), Reason: r.Text(4)}
	}, `SELECT kind, value, d.id, since, reason FROM (
			SELECT * FROM tombstones WHERE kind = 'ek' AND value = ? UNION ALL
			SELECT * FROM tombstones WHERE kind = 'ak' AND value = ? UNION ALL
			SELECT * FROM tombstones WHERE kind = 'serial' AND value = ?
		) t JOIN devices d ON d.seq = t.device`, ek, ak, serial) // with OR, SQLite would build a temporary index
	return err
}

// admit writes a decision. The constraints of the schema decide once more.
func (s *Store) admit(c *engine.Conn, q record.Query, v record.View, a record.Admission) (err error) {
	d := a.Device
	recorded := otherwiseFound(&v)
	if recorded == nil || recorded.ID != d.ID {
		if recorded, err = rows.Device(c, "id = ?", d.ID); err != nil {
			return err
		}
	}
	if recorded == nil {
		err = addDevice(c, d)
	} else {
		err = changeDevice(c, *recorded, d)
	}
	if err != nil {
		return err
	}
	if a.Session != "" {
		if err := s.redeem(c, a.Session, a.Expires); err != nil {
			return err
		}
	}
	if a.Ticket != "" {
		n, err := c.Exec("UPDATE tickets SET redeemed = ?, device = (SELECT seq FROM devices WHERE id = ?) WHERE id = ? AND redeemed IS NULL",
			a.Event.Time, d.ID, a.Ticket)
		if err := engine.Changed(n, err, "the ticket was used before or does not exist"); err != nil {
			return err
		}
	}
	if a.EKType != "" {
		t := record.EKType{Maker: d.TPMMaker, Model: d.TPMModel, Type: a.EKType, Since: a.Event.Time, Device: d.ID}
		if err := chips.Add(c, t); err != nil && !errors.Is(err, record.ErrExists) {
			return err
		}
	}
	if a.Grant != "" {
		if _, err := c.Exec("UPDATE grants SET redeemed = ? WHERE id = ? AND redeemed IS NULL", a.Event.Time, a.Grant); err != nil {
			return err
		}
	}
	if a.Used {
		n, err := c.Exec("UPDATE certificates SET used = coalesce(used, ?) WHERE serial = ? AND issuer = ?", a.Event.Time, q.CertificateSerial, q.Issuer)
		if err := engine.Changed(n, err, "there is no such certificate to mark as used"); err != nil {
			return err
		}
	}
	return audit.Add(c, a.Event)
}

// Redeemed sessions are forgotten forgetAfter their end, which outlasts any
// disagreement between clocks, at most purgeLimit of them at every purgeEvery-th
// redemption: quicker than they come, and never long.
const (
	forgetAfter = time.Hour
	purgeEvery  = 256
	purgeLimit  = 1024
)

// redeem remembers a session; the primary key lets it happen once.
func (s *Store) redeem(c *engine.Conn, session string, expires time.Time) error {
	_, err := c.Exec("INSERT INTO sessions (id, expires) VALUES (?, ?)", session, expires)
	if engine.Taken(err) {
		return fmt.Errorf("%w: the session was used before", record.ErrConflict)
	}
	if s.redeemed++; err != nil || s.redeemed%purgeEvery != 0 {
		return err
	}
	_, err = c.Exec("DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires < ? ORDER BY expires LIMIT ?)", s.now().Add(-forgetAfter), purgeLimit)
	return err
}

func addDevice(c *engine.Conn, d record.Device) error {
	if d.State != record.StateActive {
		return fmt.Errorf("%w: a new device is active, not %q", record.ErrConflict, d.State)
	}
	n, err := c.Exec("UPDATE lots SET used = used + 1 WHERE name = ? AND model = ? AND closed IS NULL AND (quota = 0 OR used < quota)", d.Lot, d.Model)
	if err := engine.Changed(n, err, "lot "+d.Lot+" is full, closed or not of model "+d.Model); err != nil {
		return err
	}
	if _, err := c.Exec(`INSERT INTO devices (id, model, lot, serial, serial_folded, state, certified, registered, hardware,
			tpm_maker, tpm_model, tpm_firmware, enrolled, renewed, seen, ak_name, ak_public, idevid_key)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		d.ID, d.Model, d.Lot, d.Serial, record.Fold(d.Serial), d.State, d.Assurance.Certified, d.Assurance.Registered, d.Assurance.Hardware,
		d.TPMMaker, d.TPMModel, d.TPMFirmware, d.Enrolled, d.Renewed, d.Seen, engine.OrNull(d.AKName), d.AKPublic, d.Key[:]); err != nil {
		return err
	}
	for _, ek := range d.EKs {
		if err := addEK(c, d.ID, ek); err != nil {
			return err
		}
	}
	return nil
}

// changeDevice writes what an admission may change of a recorded device. Most often
// that is two times, so those have a statement that touches no index.
func changeDevice(c *engine.Conn, old, d record.Device) error {
	if old.Model != d.Model || old.Lot != d.Lot || old.Serial != d.Serial || old.State != d.State || old.Enrolled.UnixMicro() != d.Enrolled.UnixMicro() {
		return fmt.Errorf("%w: an admission changes neither model, lot, serial number, state nor first enrolment of a recorded device", record.ErrConflict)
	}
	if err := changeEKs(c, old, d); err != nil {
		return err
	}
	if old.Assurance == d.Assurance && old.Key == d.Key && bytes.Equal(old.AKName, d.AKName) && bytes.Equal(old.AKPublic, d.AKPublic) &&
		old.TPMMaker == d.TPMMaker && old.TPMModel == d.TPMModel && old.TPMFirmware == d.TPMFirmware {
		_, err := c.Exec("UPDATE devices SET renewed = ?, seen = ? WHERE id = ?", d.Renewed, d.Seen, d.ID)
		return err
	}
	_, err := c.Exec(`UPDATE devices SET certified = ?, registered = ?, hardware = ?, tpm_maker = ?, tpm_model = ?, tpm_firmware = ?,
			renewed = ?, seen = ?, ak_name = ?, ak_public = ?, idevid_key = ? WHERE id = ?`,
		d.Assurance.Certified, d.Assurance.Registered, d.Assurance.Hardware, d.TPMMaker, d.TPMModel, d.TPMFirmware,
		d.Renewed, d.Seen, engine.OrNull(d.AKName), d.AKPublic, d.Key[:], d.ID)
	return err
}

// changeEKs adds endorsement keys and refreshes what is known of recorded ones. It
// forgets none: a tombstone must one day cover them all.
func changeEKs(c *engine.Conn, old, d record.Device) error {
	for _, ek := range old.EKs {
		if !slices.ContainsFunc(d.EKs, func(e record.EK) bool { return e.Fingerprint == ek.Fingerprint }) {
			return fmt.Errorf("%w: an admission forgets no endorsement key of a recorded device", record.ErrConflict)
		}
	}
	for _, ek := range d.EKs {
		i := slices.IndexFunc(old.EKs, func(e record.EK) bool { return e.Fingerprint == ek.Fingerprint })
		if i < 0 {
			if err := addEK(c, d.ID, ek); err != nil {
				return err
			}
			continue
		}
		if was := old.EKs[i]; bytes.Equal(was.Certificate, ek.Certificate) && was.Issuer == ek.Issuer && bytes.Equal(was.Name, ek.Name) && bytes.Equal(was.Public, ek.Public) {
			continue
		}
		if _, err := c.Exec("UPDATE eks SET issuer = ?, name = ?, public = ?, certificate = ? WHERE fingerprint = ?",
			ek.Issuer, ek.Name, ek.Public, ek.Certificate, ek.Fingerprint[:]); err != nil {
			return err
		}
	}
	return nil
}

func addEK(c *engine.Conn, device string, ek record.EK) error {
	_, err := c.Exec("INSERT INTO eks (device, fingerprint, issuer, name, public, certificate) VALUES ((SELECT seq FROM devices WHERE id = ?), ?, ?, ?, ?, ?)",
		device, ek.Fingerprint[:], ek.Issuer, ek.Name, ek.Public, ek.Certificate)
	return err
}
