// Package populate fills a new record's file with a fleet that nobody has enrolled, for
// measurements and crashes. A million devices take a minute; through the record's verbs they
// would take much longer than what is measured.
package populate

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	_ "modernc.org/sqlite" // the driver
)

// Fleet is devices of the default lot, each with one working certificate of the issuer
// "operational", which is only a number that bears a serial number.
type Fleet struct {
	Devices int
	// Every so many-th device has firmware 7.2.1.0, the others 7.2.1.1.
	Every int
	// The certificates of the first so many devices are revoked.
	Revoked int
	Now     time.Time
}

// capacity is that of a shard (ca.DefaultShardCapacity).
const capacity = 16384

// Fill writes to a database that no store has open, beside its journal. It returns the
// serial numbers of the certificates of devices with firmware 7.2.1.0.
func Fill(ctx context.Context, file string, f Fleet) (affected []string, err error) {
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=synchronous(off)&_pragma=cache_size(-400000)&_pragma=temp_store(memory)")
	if err != nil {
		return nil, err
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	now, end := f.Now.UnixMicro(), f.Now.Add(30*24*time.Hour).UnixMicro()
	for _, s := range []struct {
		sql  string
		args []any
	}{
		{`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
			INSERT INTO devices (seq, id, model, lot, serial, serial_folded, state, certified, registered, hardware, tpm_maker, tpm_model, tpm_firmware,
				enrolled, renewed, seen, ak_name, ak_public, idevid_key, expires, key_algorithm)
			SELECT i, lower(hex(randomblob(13))), 'default', 'default', printf('SN-%07d', i), printf('sn-%07d', i), 'active', 1, 0, 1, 'TEST', 'chip',
				iif(i % ?2 = 0, '7.2.1.0', '7.2.1.1'), ?3, ?3, ?3, randomblob(34), x'02', randomblob(32), ?4, 'ecdsa-p256' FROM n`, []any{f.Devices, f.Every, now, end}},
		{`INSERT INTO eks (device, fingerprint, issuer, name, public) SELECT seq, randomblob(32), 'CN=Test TPM Maker', randomblob(34), x'01' FROM devices`, nil},
		{`INSERT INTO certificates (issuer, serial, profile, device, subject, shard, key, not_before, not_after, intended, issued, predecessor, key_algorithm, der)
			SELECT 'operational', '4' || substr(lower(hex(randomblob(16))), 2), 'ldevid', seq, 'CN=' || serial, 1 + (seq - 1) / ?1, randomblob(32), ?2, ?3, ?2, ?2, '', 'ecdsa-p256', x'30'
			FROM devices`, []any{capacity, now, end}},
		{`INSERT INTO shards (issuer, number, given, ends) SELECT 'operational', shard, ?1, ?2 FROM certificates WHERE issuer = 'operational' GROUP BY shard`,
			[]any{capacity, f.Now.Add(31 * 24 * time.Hour).UnixMicro()}},
		{"UPDATE certificates SET revoked = ?1, reason = 1 WHERE device <= ?2", []any{now, f.Revoked}},
		{"UPDATE lots SET used = ?1 WHERE name = 'default'", []any{f.Devices}},
	} {
		if _, err := tx.ExecContext(ctx, s.sql, s.args...); err != nil {
			return nil, fmt.Errorf("%w: %s", err, s.sql)
		}
	}
	rows, err := tx.QueryContext(ctx, "SELECT c.serial FROM devices d JOIN certificates c ON c.device = d.seq WHERE d.tpm_firmware = '7.2.1.0'")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var serial string
		if err := rows.Scan(&serial); err != nil {
			return nil, err
		}
		affected = append(affected, serial)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return affected, tx.Commit()
}
