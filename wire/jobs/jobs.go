// Package jobs holds the messages about acts on many devices, and about approvals by a second
// operator, in the operator protocol.
package jobs

import (
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// Paths, as wire.PathWhoami and the others.
const (
	PathSurvey    = "/v1/survey"    // POST Selection: Survey
	PathLabels    = "/v1/labels"    // POST NewLabels: Labelled
	PathJobs      = "/v1/jobs"      // GET ?limit=&after=: List[Job]; POST New: Job; GET /ID: Progress; GET /ID/devices?filter=OUTCOME&limit=&after=: List[Device]; POST /ID/pause, resume, cancel: Job; GET /ID/report: SignedReport
	PathApprovals = "/v1/approvals" // GET: List[Approval]; POST /ID: Approval
	PathAlerts    = "/v1/alerts"    // GET: List[wire.Event], oldest first; POST SeenAlerts: SeenAlerts
	PathSettings  = "/v1/settings"  // GET: List[Setting]; POST /NAME of NewSetting: Setting
)

// HeaderAlerts is, in every answer to an operator, the number of unseen alerts; absent if there
// are none.
const HeaderAlerts = "Hallmark-Alerts"

// MaxNamed is how many devices one selection may name.
const MaxNamed = 1000

// Selection selects devices: those named, by SERIAL, MODEL:SERIAL or ID, or, if none is, those
// that match Where. An empty Where matches all.
type Selection struct {
	Where   string   `json:"where,omitempty"`
	Devices []string `json:"devices,omitempty"`
}

// Survey is what a selection amounts to. It changes nothing.
type Survey struct {
	// Devices counts the selected devices, Fleet all devices.
	Devices int64 `json:"devices"`
	Fleet   int64 `json:"fleet"`
	// Models and Lots have at most the twenty greatest entries; Contact counts by when devices
	// were last seen.
	States  []Tally `json:"states"`
	Models  []Tally `json:"models"`
	Lots    []Tally `json:"lots"`
	Contact []Tally `json:"contact"`
	// Sample is at most ten of them.
	Sample []wire.Device `json:"sample"`
	// Certificates counts their working certificates that relying parties accept or that are on
	// hold; Shards are the CRLs of those.
	Certificates int64   `json:"certificates"`
	Shards       []Shard `json:"shards"`
	// Unsigned is as in wire.StatusChange, of those shards.
	Unsigned map[string]string `json:"unsigned,omitempty"`
}

// Tally is a named count.
type Tally struct {
	Name  string `json:"name"`
	Count int64  `json:"count"`
}

// Shard is one CRL of one issuer.
type Shard struct {
	Issuer string `json:"issuer"`
	Number int64  `json:"number"`
}

// NewLabels sets and removes labels on every device of a selection. Keys are like
// [a-z][a-z0-9_-]*, values at most 256 bytes.
type NewLabels struct {
	Selection
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

// Labelled counts the devices of a NewLabels.
type Labelled struct {
	Devices int64 `json:"devices"`
}

// Kinds of jobs.
const (
	Suspend = "suspend"
	Restore = "restore"
	Retire  = "retire"
	Revoke  = "revoke"
)

// New requests one act on many devices.
type New struct {
	Selection
	Kind string `json:"kind"`
	// Reason is for a revocation alone: one of RevocationReasons.
	Reason string `json:"reason,omitempty"`
	// Why is free text for the audit, at most 1,000 bytes; it must not be empty.
	Why string `json:"why"`
	// Stages are the points at which the job pauses: "1%", or a number of devices; increasing.
	Stages []string `json:"stages,omitempty"`
	// Count must be the number of devices if the expression selects everything.
	Count int64 `json:"count,omitempty"`
	// BreakGlass is why it cannot wait for another operator's approval.
	BreakGlass string `json:"break_glass,omitempty"`
}

// Job is an act on many devices. State is "waiting" (for approval), "running", "paused",
// "publishing", "done", "cancelled" or "expired" (nobody approved it).
type Job struct {
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	State    string `json:"state"`
	Operator string `json:"operator"`
	// Where is the expression; empty if devices were named.
	Where   string    `json:"where,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Why     string    `json:"why,omitempty"`
	Created time.Time `json:"created"`
	Ended   time.Time `json:"ended,omitzero"`
	// Stages are the numbers of devices after which it pauses.
	Stages []int64 `json:"stages,omitempty"`
	// BreakGlass is why it did not wait for another operator; empty in listings.
	BreakGlass string `json:"break_glass,omitempty"`
	// Until is when a break-glass expires that was not reviewed yet.
	Until time.Time `json:"until,omitzero"`
	Total int64     `json:"total"`
	// Outcomes counts the devices by outcome, "pending" among them.
	Outcomes map[string]int64 `json:"outcomes"`
	// Approval is the request or review that is open; empty if there is none.
	Approval string `json:"approval,omitempty"`
	// Repeated: an equal job was waiting already, which this is; none was made.
	Repeated bool `json:"repeated,omitempty"`
	// Change is the number of the last change of a certificate that it made, Changed when that
	// was; zero before the first.
	Change  int64     `json:"change,omitempty"`
	Changed time.Time `json:"changed,omitzero"`
	// Unsigned is as in wire.StatusChange; empty in listings.
	Unsigned map[string]string `json:"unsigned,omitempty"`
}

// Pending is the outcome of a device that a job has not reached.
const Pending = "pending"

// Progress is a job, and who enforces what it has changed.
type Progress struct {
	Job
	Enforcement []Enforced `json:"enforcement"`
}

// Enforced says when a relying party was first known to enforce what a job changed.
type Enforced struct {
	Name string `json:"name"`
	// At is zero while that is not known.
	At time.Time `json:"at,omitzero"`
	// Reported and Problem are from its newest report, to explain a zero At.
	Reported time.Time `json:"reported,omitzero"`
	Problem  string    `json:"problem,omitempty"`
}

// Device is what a job did to one device.
type Device struct {
	// Device is its ID, Name its MODEL:SERIAL.
	Device  string    `json:"device"`
	Name    string    `json:"name"`
	Outcome string    `json:"outcome"`
	At      time.Time `json:"at,omitzero"`
}

// Approval is a request for another operator's approval, or a review of a break-glass.
type Approval struct {
	ID string `json:"id"`
	// Kind is "job", "operator", "setting", "tombstone" or "review"; Subject is a job's ID,
	// an operator's name, NAME=VALUE or a device's name.
	Kind      string    `json:"kind"`
	Subject   string    `json:"subject"`
	Why       string    `json:"why,omitempty"`
	Requester string    `json:"requester"`
	Requested time.Time `json:"requested"`
	Expires   time.Time `json:"expires,omitzero"`
	Approver  string    `json:"approver,omitempty"`
	Approved  time.Time `json:"approved,omitzero"`
	// Job is set for a job's request or review.
	Job *Job `json:"job,omitempty"`
}

// SeenAlerts marks the alerts up to a sequence number as seen.
type SeenAlerts struct {
	UpTo int64 `json:"up_to"`
}

// SettingRevokeThreshold is how many devices one operator may revoke within a day without
// another's approval.
const SettingRevokeThreshold = "revoke-threshold"

// Setting is what operators may change while the server runs.
type Setting struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	Default string `json:"default"`
}

// NewSetting changes a setting.
type NewSetting struct {
	Value string `json:"value"`
	Why   string `json:"why,omitempty"`
}
